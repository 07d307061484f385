/** Who decided: a node, an earlier denial that has not ended, or the fail mode because no node answered. */
export type Source = "node" | "denial_cache" | "fail_mode";

/** The answer to a check. */
export interface Decision {
  /** True if the request may pass. */
  allowed: boolean;
  /**
   * The status to answer with: 200, 429, 401 for an API key that is not valid, or 503 if no node answered and the fail
   * mode denies.
   */
  status: number;
  /** Who decided. A request that is allowed by the fail mode was not counted by any node. */
  source: Source;
  /** True if the node decided without its store. */
  degraded: boolean;
  /** True if the region decided without the counts of other regions. */
  partitioned: boolean;
  /** Why the check is denied if no limit denied it, such as `unknown_key`. */
  reason: string | undefined;
  /** The revision of the rules. */
  revision: number;
  /** The id under which the node knows the check. */
  requestId: string;
  /** When asking again helps. `null` if the check is allowed or if no wait helps. */
  retryAfterMs: number | null;
  limits: readonly Limit[];
  /**
   * `ratelimit`, `ratelimit-policy`, `retry-after` and `www-authenticate`, as far as the node sent them, to be copied
   * to the response.
   */
  headers: Readonly<Record<string, string>>;
  /** Why no node answered. Only if `source` is `fail_mode`. */
  failure: string | undefined;
}

/** The state of one limit after a check. */
export interface Limit {
  name: string;
  descriptor: number;
  algorithm: string;
  /** The hits of a window; `null` is unlimited. */
  limit: number | null;
  /** The hits that are left; `null` is unlimited. */
  remaining: number | null;
  windowMs: number;
  /** The time until the whole limit is free again if nothing more is asked. */
  resetMs: number;
  /** True if this limit denies the check. */
  refused: boolean;
  /** True if the limit only reports. */
  shadow: boolean;
}

/** What is wrong with one field of a check. `pointer` is its JSON pointer, such as `/attributes/user`. */
export interface FieldError {
  pointer: string;
  detail: string;
}

/** A node does not take a check: 400, 401 without a reason, 413 and so on. The fail mode never applies. */
export class RejectedError extends Error {
  override name = "RejectedError";

  constructor(
    readonly status: number,
    readonly title: string,
    readonly errors: readonly FieldError[],
  ) {
    const details = errors.map(({ pointer, detail }) => `; ${pointer}: ${detail}`).join("");
    super(`the check was rejected with status ${status}: ${title}${details}`);
  }
}

/** An answer is not that of a node: the URL may be wrong. The fail mode never applies. */
export class AnswerError extends Error {
  override name = "AnswerError";
}

/** Why no node answered. The fail mode decides. */
export class NoAnswer extends Error {}

/** What was read of a node's answer. The status is below 500. */
export interface Answer {
  url: string;
  response: Response;
  text: string;
}

/** The headers of an answer that belong on the response to the user. */
const COPIED = ["ratelimit", "ratelimit-policy", "retry-after", "www-authenticate"];

/** Reads the answer to one check. Throws an error if it decides nothing. */
export function decode(answer: Answer): Decision {
  const { response, text } = answer;
  const read = parse(text);
  // Only a status of 200 allows.
  const allowed = response.status === 200;
  if ([200, 401, 429].includes(response.status) && read["allowed"] === allowed) {
    return decision(response.status, response.headers, read, allowed);
  }
  if (response.status === 429) {
    return decision(429, response.headers, { retry_after_ms: retryAfterMs(response) }, false);
  }
  throw refusal(answer);
}

/** Reads the answer to a batch. Throws an error if it decides nothing. */
export function decodeAll(answer: Answer, count: number): (Decision | RejectedError | NoAnswer)[] {
  const results = list(parse(answer.text)["results"]);
  if (answer.response.status !== 200 || results.length !== count) throw refusal(answer);
  return results.map((result) => decodeOne(answer, result));
}

/** Reads the answer to one check of a batch. */
function decodeOne(answer: Answer, result: Record<string, unknown>): Decision | RejectedError | NoAnswer {
  if (typeof result["allowed"] === "boolean") {
    const denied = String(result["reason"]).endsWith("_key") ? 401 : 429;
    return decision(result["allowed"] ? 200 : denied, new Headers(), result, result["allowed"]);
  }
  const [problem] = list([result["error"]]);
  const status = Number(problem?.["status"]);
  if (problem === undefined || !(status >= 400)) throw refusal(answer);
  if (status >= 500) return new NoAnswer(`no node answered: ${answer.url}: status ${status}`);
  return rejected(status, "", problem);
}

/** Returns the error of an answer that decides nothing. */
function refusal({ url, response, text }: Answer): Error {
  if (response.status >= 400) return rejected(response.status, response.statusText, parse(text));
  return new AnswerError(`${url}: expected the answer of a node, not status ${response.status} with another body`);
}

function rejected(status: number, statusText: string, problem: Record<string, unknown>): RejectedError {
  const title = typeof problem["title"] === "string" ? problem["title"] : statusText;
  const errors = list(problem["errors"]).map((error) => {
    return { pointer: String(error["pointer"]), detail: String(error["detail"]) };
  });
  return new RejectedError(status, title, errors);
}

/** Returns the `Retry-After` of an answer if it is in seconds. One with a date is not read. */
function retryAfterMs({ headers }: Response): number | null {
  const wait = headers.get("retry-after") ?? "";
  return /^[0-9]{1,9}$/.test(wait) ? Number(wait) * 1000 : null;
}

function parse(text: string): Record<string, unknown> {
  try {
    const read: unknown = JSON.parse(text);
    return typeof read === "object" && read !== null ? (read as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

function list(value: unknown): Record<string, unknown>[] {
  return Array.isArray(value) ? value.filter((item) => typeof item === "object" && item !== null) : [];
}

function decision(
  status: number,
  from: Headers,
  answer: Record<string, unknown>,
  allowed: boolean,
): Decision {
  const text = (value: unknown) => (typeof value === "string" ? value : undefined);
  const number = (value: unknown) => (typeof value === "number" ? value : null);
  const headers: Record<string, string> = {};
  for (const name of COPIED) {
    const value = from.get(name);
    if (value !== null) headers[name] = value;
  }
  return {
    allowed,
    status,
    source: "node",
    degraded: answer["degraded"] === true,
    partitioned: answer["partitioned"] === true,
    reason: text(answer["reason"]),
    revision: number(answer["revision"]) ?? 0,
    requestId: text(answer["request_id"]) ?? "",
    retryAfterMs: number(answer["retry_after_ms"]),
    limits: list(answer["limits"]).map((limit) => ({
      name: text(limit["name"]) ?? "",
      descriptor: number(limit["descriptor"]) ?? 0,
      algorithm: text(limit["algorithm"]) ?? "",
      limit: number(limit["limit"]),
      remaining: number(limit["remaining"]),
      windowMs: number(limit["window_ms"]) ?? 0,
      resetMs: number(limit["reset_ms"]) ?? 0,
      refused: limit["refused"] === true,
      shadow: limit["shadow"] === true,
    })),
    headers,
    failure: undefined,
  };
}
