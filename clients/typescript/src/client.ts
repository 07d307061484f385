import { hitsOfDenial, keyOf, toJson } from "./check.js";
import type { Attributes, Check, CheckOptions, RequestHeaders } from "./check.js";
import { complete, isHeaderValue } from "./config.js";
import type { CompleteConfig, Config } from "./config.js";
import { decode, decodeAll, NoAnswer, RejectedError } from "./decision.js";
import type { Answer, Decision } from "./decision.js";
import { DenialCache } from "./denials.js";
import { Places } from "./places.js";

/** How long a node that failed is asked only after the others, in milliseconds. */
const PAUSE_MS = 1000;
/** How often a call is sent at most. */
const MAX_TRIES = 2;
/** The headers of the caller's request that are sent to the node. */
const PASSED_ON = ["traceparent", "tracestate", "x-request-id"];
/**
 * The longest value of these headers that is sent. A user may choose them, and a node closes a connection whose head is
 * too long, as if it had failed.
 */
const MAX_HEADER = 1024;
/** A call for one check, and a call for many. */
const ONE: Kind = { path: "/v1/check", maxBody: 64 << 10, maxBodyText: "64 KiB", maxAnswer: 1 << 20 };
const MANY: Kind = { path: "/v1/checks", maxBody: 1 << 20, maxBodyText: "1 MiB", maxAnswer: 16 << 20 };

interface Kind {
  path: string;
  /**
   * The longest body that a node takes. A node may close the connection of a longer one before its answer is read, as
   * if it had failed.
   */
  maxBody: number;
  maxBodyText: string;
  /** How many bytes of an answer are read. */
  maxAnswer: number;
}

/** Asks nodes. Make one and share it. */
export class Client {
  readonly #config: CompleteConfig;
  /** The time that a node needs to answer. A node that fails in less is not paused. */
  readonly #leastMs: number;
  readonly #denials: DenialCache;
  readonly #places: Places;
  readonly #pausedUntil = new Map<string, number>();

  /** Opens no connection. Throws a `TypeError` that names the field of `config` that is wrong. */
  constructor(config: Config) {
    this.#config = complete(config);
    this.#denials = new DenialCache(this.#config.denialCacheSize, this.#config.denialCacheLongestMs);
    this.#leastMs = this.#config.deadlineMs / 4;
    this.#places = new Places(this.#config.maxInFlight, this.#leastMs);
  }

  /** How many denials are remembered. */
  get denials(): number {
    return this.#denials.size;
  }

  /**
   * Asks whether a request may pass, and resolves within the deadline.
   *
   * If a node cannot be reached, does not answer in its part of the deadline, or answers with status 5xx, the next node
   * is asked, once. A check that a node charged before it failed is then charged twice. If no node answers, the fail
   * mode decides, and the decision has the source `fail_mode`. While `maxInFlight` calls are in flight, the check
   * waits, and its wait counts against the deadline. A check that waited is not sent if less than a quarter of the
   * deadline is left: the fail mode decides.
   *
   * Rejects with a `RejectedError` if the node does not take the check, and with an `AnswerError` if the answer is not
   * that of a node.
   */
  async check(domain: string, attributes?: Attributes, options: CheckOptions = {}): Promise<Decision> {
    const { hits, descriptors, overdraft, headers } = options;
    const check = { domain, attributes, descriptors, hits, overdraft };
    const [key, covered] = [keyOf(check), hitsOfDenial(check)];
    const remembered = () => this.#denials.find(key, covered, performance.now());
    const denial = remembered();
    if (denial !== undefined) return denial;
    // The caller may change its objects while the check waits.
    const request = this.#request(ONE, toJson(check), headers);
    return this.#inPlace(
      async (end) => {
        // While the check waited, another one may have been denied.
        const denial = remembered();
        if (denial !== undefined) return denial;
        const decision = decode(await this.#send(ONE, request, end));
        this.#denials.add(key, covered, decision, performance.now());
        return decision;
      },
      (why) => this.#failMode(why),
    );
  }

  /**
   * Asks about up to 1,000 checks in one call. Each is decided for itself, and the results have the order of the
   * checks. A check that the node does not take has a `RejectedError` as its result.
   *
   * This does what `check` does, except that the decisions have no headers, and denials are neither remembered nor
   * found in the denial cache. Rejects with a `RejectedError` if the node does not take the whole batch, and with an
   * `AnswerError` if the answer is not that of a node.
   */
  async checkAll(
    checks: readonly Check[],
    options: { headers?: RequestHeaders | undefined } = {},
  ): Promise<(Decision | RejectedError)[]> {
    if (checks.length === 0) return [];
    const count = checks.length;
    const request = this.#request(MANY, { checks: checks.map(toJson) }, options.headers);
    return this.#inPlace(
      async (end) => {
        const results = decodeAll(await this.#send(MANY, request, end), count);
        return results.map((result) => (result instanceof NoAnswer ? this.#failMode(result.message) : result));
      },
      (why) => Array.from({ length: count }, () => this.#failMode(why)),
    );
  }

  /** Runs a call when it has a place. `otherwise` returns the result if no node answers, or if there is no place. */
  async #inPlace<T>(run: (end: number) => Promise<T>, otherwise: (why: string) => T): Promise<T> {
    const end = performance.now() + this.#config.deadlineMs;
    const why = await this.#places.take(end);
    if (why !== undefined) return otherwise(why);
    try {
      return await run(end);
    } catch (error) {
      if (error instanceof NoAnswer) return otherwise(error.message);
      throw error;
    } finally {
      this.#places.leave();
    }
  }

  /** Returns the request of a call. Throws a `RejectedError` if its body is too long. */
  #request(kind: Kind, json: object, from: RequestHeaders | undefined): RequestInit {
    const body = JSON.stringify(json);
    if (new TextEncoder().encode(body).length > kind.maxBody) {
      throw new RejectedError(413, `expected a body of at most ${kind.maxBodyText}`, []);
    }
    return { method: "POST", body, headers: this.#headers(from ?? {}) };
  }

  /** Sends a call to one node after another until one answers. Throws a `NoAnswer` if none does. */
  async #send(kind: Kind, request: RequestInit, end: number): Promise<Answer> {
    const failures: string[] = [];
    for (const [attempt, url] of this.#order().entries()) {
      const timeMs = this.#timeOf(attempt, end);
      try {
        return await this.#ask(url + kind.path, request, kind.maxAnswer, timeMs);
      } catch (error) {
        if (!(error instanceof NoAnswer)) throw error;
        if (timeMs >= this.#leastMs) this.#pausedUntil.set(url, performance.now() + PAUSE_MS);
        failures.push(error.message);
      }
      if (performance.now() >= end) break;
    }
    throw new NoAnswer(`no node answered: ${failures.join("; ")}`);
  }

  /** Sends a call to one node and reads the answer. */
  async #ask(url: string, request: RequestInit, maxAnswer: number, timeMs: number): Promise<Answer> {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), timeMs);
    let response: Response | undefined;
    let text = "";
    try {
      // A node never redirects. A redirect is an answer that is no decision.
      response = await this.#config.fetch(url, { ...request, redirect: "manual", signal: abort.signal });
      text = await textOf(response, maxAnswer);
    } catch (error) {
      // A status of 4xx refuses the check even if its body cannot be read.
      if (response === undefined || response.status < 400) {
        throw new NoAnswer(`${url}: ${abort.signal.aborted ? "no answer in time" : describe(error)}`);
      }
    } finally {
      clearTimeout(timer);
    }
    if (response.status >= 500) throw new NoAnswer(`${url}: status ${response.status}`);
    return { url, response, text };
  }

  #headers(from: RequestHeaders): Record<string, string> {
    const headers: Record<string, string> = { "content-type": "application/json" };
    if (this.#config.token !== undefined) headers["authorization"] = `Bearer ${this.#config.token}`;
    for (const [name, value] of from instanceof Headers ? from : Object.entries(from)) {
      const text = typeof value === "object" ? value.join(", ") : (value ?? "");
      if (!PASSED_ON.includes(name.toLowerCase())) continue;
      if (text.length <= MAX_HEADER && isHeaderValue(text)) headers[name.toLowerCase()] = text;
    }
    return headers;
  }

  /** Returns the URLs of the nodes that a call is sent to: nodes that did not just fail come first. */
  #order(): string[] {
    const now = performance.now();
    const paused = (url: string) => now < (this.#pausedUntil.get(url) ?? 0);
    const urls = [...this.#config.urls].sort((a, b) => Number(paused(a)) - Number(paused(b)));
    // One address may stand for several nodes: a second try may reach another one.
    return (urls.length === 1 ? [...urls, ...urls] : urls).slice(0, MAX_TRIES);
  }

  /** Returns the time of a try. The first takes at most half of the time if there is another node. */
  #timeOf(attempt: number, end: number): number {
    const left = end - performance.now();
    return attempt === 0 && this.#config.urls.length > 1 ? left / 2 : left;
  }

  /** Returns the decision when no node answered. */
  #failMode(failure: string): Decision {
    const allowed = this.#config.failMode === "allow";
    return {
      allowed,
      status: allowed ? 200 : 503,
      source: "fail_mode",
      degraded: false,
      partitioned: false,
      reason: undefined,
      revision: 0,
      requestId: "",
      retryAfterMs: null,
      limits: [],
      headers: {},
      failure,
    };
  }
}

/** Returns the body of an answer, or nothing if it is too long: it decides nothing then. */
async function textOf(response: Response, most: number): Promise<string> {
  const reader = response.body?.getReader();
  const decoder = new TextDecoder();
  let [text, size] = ["", 0];
  for (let part = await reader?.read(); part?.value !== undefined; part = await reader?.read()) {
    size += part.value.byteLength;
    if (size > most) {
      await reader?.cancel();
      return "";
    }
    text += decoder.decode(part.value, { stream: true });
  }
  return text + decoder.decode();
}

/** Returns the cause that `fetch` hides. */
function describe(error: unknown): string {
  const cause = error instanceof Error ? (error.cause ?? error) : error;
  return cause instanceof Error ? cause.message || cause.name : String(cause);
}
