import { complete, isHeaderValue } from "./config.js";
import type { CompleteConfig, Config } from "./config.js";
import { decode, FailedNode, RejectedError } from "./decision.js";
import type { Attributes, Decision } from "./decision.js";
import { DenialCache } from "./denials.js";

/** How long a node that failed is asked only after the others, in milliseconds. */
const PAUSE_MS = 1000;
/** How often a check is sent at most. */
const MAX_TRIES = 2;
/**
 * The longest body that a node takes. A node may close the connection of a longer one before its answer is read, as if
 * it had failed.
 */
const MAX_BODY = 64 << 10;
/** How many bytes of an answer are read. */
const MAX_ANSWER = 1 << 20;
/** The headers of the caller's request that are sent to the node. */
const PASSED_ON = ["traceparent", "tracestate", "x-request-id"];

/** What else belongs to a check. */
export interface CheckOptions {
  /** How many hits the request costs. 0 asks whether one hit would pass, and charges nothing. Default 1. */
  hits?: number | undefined;
  /**
   * The headers of the request on whose behalf is asked. Its `traceparent`, `tracestate` and `x-request-id` are sent to
   * the node; the others are not.
   */
  headers?: Headers | Readonly<Record<string, string | readonly string[] | undefined>> | undefined;
}

/** Asks nodes. Make one and share it. */
export class Client {
  readonly #config: CompleteConfig;
  readonly #denials: DenialCache;
  readonly #pausedUntil = new Map<string, number>();

  /** Opens no connection. Throws a `TypeError` that names the field of `config` that is wrong. */
  constructor(config: Config) {
    this.#config = complete(config);
    this.#denials = new DenialCache(this.#config.denialCacheSize, this.#config.denialCacheLongestMs);
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
   * mode decides, and the decision has the source `fail_mode`.
   *
   * Rejects with a `RejectedError` if the node does not take the check, and with an `AnswerError` if the answer is not
   * that of a node.
   */
  async check(domain: string, attributes: Attributes = {}, options: CheckOptions = {}): Promise<Decision> {
    const hits = options.hits ?? 1;
    const key = JSON.stringify([domain, Object.entries(attributes).sort(([a], [b]) => (a < b ? -1 : 1))]);
    const denial = this.#denials.find(key, hits, performance.now());
    if (denial !== undefined) return denial;

    const body = JSON.stringify({ domain, attributes, hits });
    if (new TextEncoder().encode(body).length > MAX_BODY) {
      throw new RejectedError(413, "expected a body of at most 64 KiB", []);
    }
    const headers = this.#headers(options.headers ?? {});
    const end = performance.now() + this.#config.deadlineMs;
    const failures: string[] = [];
    for (const [attempt, url] of this.#order().entries()) {
      try {
        const decision = await this.#ask(url, { method: "POST", body, headers }, this.#timeOf(attempt, end));
        this.#denials.add(key, hits, decision, performance.now());
        return decision;
      } catch (error) {
        if (!(error instanceof FailedNode)) throw error;
        this.#pausedUntil.set(url, performance.now() + PAUSE_MS);
        failures.push(error.message);
      }
      if (performance.now() >= end) break;
    }
    return this.#failed(`no node answered: ${failures.join("; ")}`);
  }

  /** Sends a check to one node and reads the answer. */
  async #ask(url: string, request: RequestInit, timeMs: number): Promise<Decision> {
    const abort = new AbortController();
    const timer = setTimeout(() => abort.abort(), timeMs);
    let response: Response | undefined;
    let text = "";
    try {
      // A node never redirects. A redirect is an answer that is no decision.
      response = await this.#config.fetch(url, { ...request, redirect: "manual", signal: abort.signal });
      text = await textOf(response);
    } catch (error) {
      // A status of 4xx refuses the check even if its body cannot be read.
      if (response === undefined || response.status < 400 || response.status >= 500) {
        throw new FailedNode(`${url}: ${abort.signal.aborted ? "no answer in time" : describe(error)}`);
      }
    } finally {
      clearTimeout(timer);
    }
    return decode(url, response, text);
  }

  #headers(from: NonNullable<CheckOptions["headers"]>): Record<string, string> {
    const headers: Record<string, string> = { "content-type": "application/json" };
    if (this.#config.token !== undefined) headers["authorization"] = `Bearer ${this.#config.token}`;
    for (const [name, value] of from instanceof Headers ? from : Object.entries(from)) {
      const text = typeof value === "object" ? value.join(", ") : (value ?? "");
      if (PASSED_ON.includes(name.toLowerCase()) && isHeaderValue(text)) headers[name.toLowerCase()] = text;
    }
    return headers;
  }

  /** Returns the URLs that a check is sent to: nodes that did not just fail come first. */
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

  #failed(failure: string): Decision {
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
async function textOf(response: Response): Promise<string> {
  const reader = response.body?.getReader();
  const decoder = new TextDecoder();
  let [text, size] = ["", 0];
  for (let part = await reader?.read(); part?.value !== undefined; part = await reader?.read()) {
    size += part.value.byteLength;
    if (size > MAX_ANSWER) {
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
