/** The answer to a check that no node answered. */
export type FailMode = "allow" | "deny";

/** Which nodes a client asks, and what it does when they do not answer. */
export interface Config {
  /** Base URLs such as `http://10.0.0.1:8080`, in the order of preference. At least one. */
  nodes: readonly string[];
  /** Bounds a call to `check` with both of its tries, in milliseconds. At most 3,600,000. Default 250. */
  deadlineMs?: number | undefined;
  /** The answer to a check that no node answered. Default `allow`. */
  failMode?: FailMode | undefined;
  /** Sent as `Authorization: Bearer`. Default: none. */
  token?: string | undefined;
  /** How many denials are remembered. 0 turns the cache off. Default 10,000. */
  denialCacheSize?: number | undefined;
  /**
   * The longest time for which a denial is remembered, in milliseconds, so that a raised limit is noticed. Default
   * 60,000.
   */
  denialCacheLongestMs?: number | undefined;
  /**
   * How many calls are in flight at most. Others wait for one of these to end, and their wait counts against the
   * deadline. At most 100 times as many wait; the fail mode decides about every other check at once. Default 64.
   */
  maxInFlight?: number | undefined;
  /** Sends the requests, with a client certificate for example. Default: the global `fetch`. */
  fetch?: typeof fetch | undefined;
}

/** The configuration with its defaults. */
export interface CompleteConfig {
  urls: readonly string[];
  deadlineMs: number;
  failMode: FailMode;
  token: string | undefined;
  denialCacheSize: number;
  denialCacheLongestMs: number;
  maxInFlight: number;
  fetch: typeof fetch;
}

/** The longest deadline. A timer that is longer than 24 days ends at once. */
const MAX_DEADLINE_MS = 3_600_000;

/** Returns the configuration with its defaults. Throws a `TypeError` that names the field that is wrong. */
export function complete(config: Config): CompleteConfig {
  if (!Array.isArray(config.nodes) || config.nodes.length === 0) {
    throw new TypeError("nodes: expected a list of at least one base URL");
  }
  const urls = config.nodes.map((node: unknown, at: number) => {
    if (!isBaseUrl(node)) {
      throw new TypeError(
        `nodes[${at}]: expected a base URL such as http://10.0.0.1:8080, not ${JSON.stringify(node)}`,
      );
    }
    return node.replace(/\/+$/, "");
  });
  const failMode = config.failMode ?? "allow";
  if (failMode !== "allow" && failMode !== "deny") {
    throw new TypeError(`failMode: expected "allow" or "deny", not ${JSON.stringify(failMode)}`);
  }
  if (config.token !== undefined && !isHeaderValue(config.token)) {
    throw new TypeError("token: expected printable ASCII without a line break");
  }
  return {
    urls,
    failMode,
    token: config.token,
    // The global function wants no other `this`.
    fetch: config.fetch ?? ((input, init) => fetch(input, init)),
    deadlineMs: number("deadlineMs", config.deadlineMs, 250, 1, MAX_DEADLINE_MS),
    denialCacheSize: number("denialCacheSize", config.denialCacheSize, 10_000, 0),
    denialCacheLongestMs: number("denialCacheLongestMs", config.denialCacheLongestMs, 60_000, 1),
    maxInFlight: number("maxInFlight", config.maxInFlight, 64, 1),
  };
}

function number(name: string, value: number | undefined, otherwise: number, least: number, most = Infinity): number {
  const chosen = value ?? otherwise;
  if (!Number.isFinite(chosen) || chosen < least || chosen > most) {
    const bounds = most === Infinity ? `at least ${least}` : `${least} to ${most}`;
    throw new TypeError(`${name}: expected a number of ${bounds}, not ${JSON.stringify(value)}`);
  }
  return chosen;
}

function isBaseUrl(text: unknown): text is string {
  // A path is added to the URL. `URL` takes spaces around it, and an empty query.
  if (typeof text !== "string" || /[^!-~]|[?#]/.test(text)) return false;
  try {
    const url = new URL(text);
    return ["http:", "https:"].includes(url.protocol) && !url.username && !url.password;
  } catch {
    return false;
  }
}

/** True if a text can be sent in a header as it is. */
export function isHeaderValue(text: string): boolean {
  return /^[!-~]([ -~]*[!-~])?$/.test(text);
}
