import type { Check, RequestHeaders } from "./check.js";
import type { Client } from "./client.js";
import type { Decision } from "./decision.js";

/** The text of the answers that a middleware gives itself. */
export const PHRASES: Readonly<Record<number, string>> = {
  401: "Unauthorized",
  429: "Too Many Requests",
  503: "Service Unavailable",
};

/**
 * Asks for a request. Hides the status of a rejected check in the cause of an error: frameworks would answer with it,
 * as if the user had made the mistake.
 */
export async function ask(client: Client, check: Check, headers: RequestHeaders): Promise<Decision> {
  try {
    return await client.check(check.domain, check.attributes, { ...check, headers });
  } catch (error) {
    throw new Error("the check of the rate limit failed", { cause: error });
  }
}
