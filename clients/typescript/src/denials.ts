import type { Decision } from "./decision.js";

/** The length of the longest key that is remembered, and the most limits of its denial. They bound the memory. */
const MAX_KEY = 2048;
const MAX_LIMITS = 20;

/** Covers every check of its key that asks for at least as many hits. */
interface Denial {
  hits: number;
  decision: Decision;
  at: number;
  end: number;
}

/**
 * Remembers denials until they end. Of a full cache, the oldest denial leaves. Times are in milliseconds of a monotonic
 * clock.
 */
export class DenialCache {
  readonly #byKey = new Map<string, Denial>();

  constructor(
    readonly limit: number,
    readonly longestMs: number,
  ) {}

  get size(): number {
    return this.#byKey.size;
  }

  /** Remembers a decision if it denies and says when asking again helps. */
  add(key: string, hits: number, decision: Decision, now: number): void {
    const wait = decision.retryAfterMs;
    if (this.limit === 0 || decision.allowed || !wait || hits === 0) return;
    if (key.length > MAX_KEY || decision.limits.length > MAX_LIMITS) return;
    this.#byKey.delete(key);
    if (this.#byKey.size >= this.limit) {
      for (const oldest of this.#byKey.keys()) {
        this.#byKey.delete(oldest);
        break;
      }
    }
    // A copy: the caller may change its decision.
    this.#byKey.set(key, { hits, decision: after(decision, 0), at: now, end: now + Math.min(wait, this.longestMs) });
  }

  /** Returns the denial that covers a check, with its times as they are now. */
  find(key: string, hits: number, now: number): Decision | undefined {
    const found = this.#byKey.get(key);
    if (found === undefined) return undefined;
    if (now >= found.end) {
      this.#byKey.delete(key);
      return undefined;
    }
    return hits >= found.hits ? after(found.decision, Math.floor(now - found.at)) : undefined;
  }
}

/** Returns a denial as it reads when some time has passed. */
function after(denial: Decision, passedMs: number): Decision {
  const before = denial.retryAfterMs ?? 0;
  const wait = Math.max(1, before - passedMs);
  const seconds = Math.ceil(wait / 1000);
  const gone = Math.ceil(before / 1000) - seconds;
  const headers: Record<string, string> = { ...denial.headers, "retry-after": String(seconds) };
  if (headers["ratelimit"] !== undefined) {
    headers["ratelimit"] = headers["ratelimit"].replace(/;t=(\d+)/g, (_, t) => `;t=${Math.max(0, Number(t) - gone)}`);
  }
  const limits = denial.limits.map((limit) => ({ ...limit, resetMs: Math.max(0, limit.resetMs - passedMs) }));
  return { ...denial, source: "denial_cache", retryAfterMs: wait, limits, headers };
}
