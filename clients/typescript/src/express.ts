import type { IncomingMessage, ServerResponse } from "node:http";

import type { Check } from "./check.js";
import type { Client } from "./client.js";
import type { Decision } from "./decision.js";
import { ask, PHRASES } from "./middleware.js";

export type { Check };

/** The symbol under which a request has its decision. */
export const DECISION = Symbol.for("tidegate.decision");

/**
 * Returns a middleware for Express, and for every framework whose middleware takes `(request, response, next)`.
 *
 * `describe` returns what to ask for a request, or `undefined` for a request that is not limited. A request that is
 * denied is answered with the decision's status and headers. A check that is an error goes to `next`, so that Express
 * answers 500.
 */
export function limit<Q extends IncomingMessage>(
  client: Client,
  describe: (request: Q) => Check | undefined,
): (request: Q, response: ServerResponse, next: (error?: unknown) => void) => void {
  return (request, response, next) => {
    void limited(client, describe, request, response).then((passes) => passes && next(), next);
  };
}

/** Returns the decision that a request got. */
export function decisionOf(request: object): Decision | undefined {
  return (request as { [DECISION]?: Decision })[DECISION];
}

/** Returns true if a request passes, and answers it otherwise. */
async function limited<Q extends IncomingMessage>(
  client: Client,
  describe: (request: Q) => Check | undefined,
  request: Q,
  response: ServerResponse,
): Promise<boolean> {
  const check = describe(request);
  if (check === undefined) return true;
  const decision = await ask(client, check, request.headers);
  Object.assign(request, { [DECISION]: decision });
  for (const [name, value] of Object.entries(decision.headers)) response.setHeader(name, value);
  if (!decision.allowed) {
    response.statusCode = decision.status;
    response.setHeader("content-type", "text/plain");
    response.end(PHRASES[decision.status]);
  }
  return decision.allowed;
}
