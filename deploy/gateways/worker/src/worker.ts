/**
 * A Cloudflare Worker that asks a Tidegate node before a request goes to its origin. Denials are remembered in the
 * Worker's memory until they end, so a client that goes on costs no further call.
 */
import { Client } from "@tidegate/client";
import type { Decision, FailMode } from "@tidegate/client";

/** The settings: `[vars]` in wrangler.toml, and the secret `TIDEGATE_TOKEN`. workerd sets what is not there to null. */
export interface Env {
  /** Base URLs of the nodes, separated by commas, in the order of preference. */
  TIDEGATE_NODES: string;
  /** The domain of the rules. */
  TIDEGATE_DOMAIN: string;
  /** `allow` (default) or `deny`: the answer if no node answers. */
  TIDEGATE_FAIL_MODE?: string | null;
  /** How long a check may take in all, in milliseconds. Default 250. */
  TIDEGATE_DEADLINE_MS?: string | null;
  /** Sent as `Authorization: Bearer`. */
  TIDEGATE_TOKEN?: string | null;
}

/** The most characters of an API key that are sent. No valid key is longer, and a node rejects values above 4 KiB. */
const MAX_KEY = 512;
/** The text of an answer to a request that may not pass. */
const PHRASES: Record<number, string> = { 401: "Unauthorized", 429: "Too Many Requests", 503: "Service Unavailable" };
/** Lets the scripts of a page read these headers of a response that the page may read. */
const EXPOSED = { "access-control-expose-headers": "RateLimit, RateLimit-Policy, Retry-After" };

/** All requests of an isolate share a client, and so its remembered denials. */
let shared: Client | undefined;

export default { fetch: handleRequest };

/** Passes a request on to its origin, or answers it if it may not pass. */
async function handleRequest(request: Request, env: Env): Promise<Response> {
  // A browser asks for leave first. That is not a request of its user.
  if (isPreflight(request)) return fetch(request);
  let rateLimit: Decision;
  try {
    rateLimit = await checkRateLimit(request, env);
  } catch (error) {
    // The settings are wrong, or the node rejected the check. Such a request never passes.
    console.error(error);
    return new Response("Internal Server Error", { status: 500 });
  }
  if (!rateLimit.allowed) {
    const headers = { ...rateLimit.headers, ...EXPOSED, ...corsOf(request) };
    return new Response(PHRASES[rateLimit.status], { status: rateLimit.status, headers });
  }
  const response = await fetch(request);
  // The headers of a response from `fetch` cannot be changed.
  const answer = new Response(response.body, response);
  for (const [name, value] of Object.entries(rateLimit.headers)) answer.headers.set(name, value);
  for (const [name, value] of Object.entries(EXPOSED)) answer.headers.append(name, value);
  return answer;
}

/** A client that is no browser can send these headers, too. */
function isPreflight({ method, headers }: Request): boolean {
  return method === "OPTIONS" && headers.has("origin") && headers.has("access-control-request-method");
}

/** Asks whether a request may pass. The limits see its client's address and API key, its host and its method. */
async function checkRateLimit(request: Request, env: Env): Promise<Decision> {
  shared ??= new Client({
    nodes: (env.TIDEGATE_NODES ?? "").split(",").map((url) => url.trim()),
    failMode: (env.TIDEGATE_FAIL_MODE ?? "allow") as FailMode,
    deadlineMs: Number(env.TIDEGATE_DEADLINE_MS ?? 250),
    token: env.TIDEGATE_TOKEN ?? undefined,
    // A request must not wait for another one: Cloudflare may end that without letting it give its place back.
    maxInFlight: Number.MAX_SAFE_INTEGER,
  });
  const attributes: Record<string, string> = { method: request.method, host: new URL(request.url).hostname };
  // Cloudflare sets this header itself: a client cannot choose it.
  const ip = request.headers.get("cf-connecting-ip");
  if (ip !== null) attributes["ip"] = ip;
  const key = request.headers.get("x-api-key");
  if (key !== null) attributes["api_key"] = key.slice(0, MAX_KEY);
  return shared.check(env.TIDEGATE_DOMAIN, attributes, { headers: request.headers });
}

/** Lets the page that asked read a denial, which says nothing about the origin's data. */
function corsOf(request: Request): Record<string, string> {
  const origin = request.headers.get("origin");
  if (origin === null) return {};
  return { "access-control-allow-origin": origin, "access-control-allow-credentials": "true", vary: "origin" };
}
