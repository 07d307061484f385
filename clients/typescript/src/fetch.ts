import type { Check } from "./check.js";
import type { Client } from "./client.js";
import { ask, PHRASES } from "./middleware.js";

/**
 * Wraps a function from a request to its response: a handler of your server, or `fetch` itself to limit what you send.
 *
 * `describe` returns what to ask for a request, or `undefined` for a request that is not limited. A request that is
 * denied gets a response with the decision's status and headers, and `next` is not called. The response to a request
 * that is allowed gets the headers of the decision. A check that is an error rejects.
 */
export function limitFetch<Rest extends unknown[]>(
  client: Client,
  describe: (request: Request, ...rest: Rest) => Check | undefined,
  next: (request: Request, ...rest: Rest) => Response | Promise<Response>,
): (request: Request, ...rest: Rest) => Promise<Response> {
  return async (request, ...rest) => {
    const check = describe(request, ...rest);
    if (check === undefined) return next(request, ...rest);
    const decision = await ask(client, check, request.headers);
    if (!decision.allowed) {
      return new Response(PHRASES[decision.status], { status: decision.status, headers: decision.headers });
    }
    const response = await next(request, ...rest);
    // The headers of a response from `fetch` cannot be changed.
    const answer = new Response(response.body, response);
    for (const [name, value] of Object.entries(decision.headers)) answer.headers.set(name, value);
    return answer;
  };
}
