/** What the rules match and count by. */
export type Attributes = Readonly<Record<string, string>>;

/** The headers of a request. */
export type RequestHeaders = Headers | Readonly<Record<string, string | readonly string[] | undefined>>;

/** What is asked beside the domain and the attributes. */
export interface CheckOptions {
  /** How many hits the request costs. 0 asks whether one hit would pass, and charges nothing. Default 1. */
  hits?: number | undefined;
  /**
   * Several descriptors, 1 to 100, in place of the attributes. The check is allowed if all limits of all of them allow
   * it.
   */
  descriptors?: readonly Attributes[] | undefined;
  /**
   * True charges the hits even if they do not fit, for a cost that is known only afterwards. The decision still says
   * whether they fit. Such a check always asks a node.
   */
  overdraft?: boolean | undefined;
  /**
   * The headers of the request on whose behalf is asked. Its `traceparent`, `tracestate` and `x-request-id` are sent to
   * the node; the others are not.
   */
  headers?: RequestHeaders | undefined;
}

/** A check of a batch, and what a middleware asks for a request. */
export interface Check extends Omit<CheckOptions, "headers"> {
  /** The domain of the rules. */
  domain: string;
  /** One descriptor. */
  attributes?: Attributes | undefined;
}

/** Returns the check as it is sent. Fields that are `undefined` are not sent. */
export function toJson({ domain, attributes, descriptors, hits = 1, overdraft }: Check): object {
  return { domain, attributes: attributes && sent(attributes), descriptors: descriptors?.map(sent), hits, overdraft };
}

/**
 * A node rejects a check with `null`. JSON would leave out an attribute that is `undefined`, and no limit might match. Of
 * half a character, a node would reject the whole batch.
 */
function sent(attributes: Attributes): object {
  const isBroken = (value: unknown) => typeof value === "string" && /\p{Surrogate}/u.test(value);
  return Object.fromEntries(
    Object.entries(attributes).map(([name, value]) => [name, isBroken(value) ? null : (value ?? null)]),
  );
}

/** Returns a text that is equal for checks of the same counters. */
export function keyOf({ domain, attributes = {}, descriptors = [] }: Check): string {
  const sorted = (names: Attributes) => Object.entries(names).sort(([a], [b]) => (a < b ? -1 : 1));
  return JSON.stringify([domain, sorted(attributes), descriptors.map(sorted)]);
}

/** Returns the hits of a denial that may cover a check. No denial covers 0 hits. */
export function hitsOfDenial({ hits = 1, overdraft }: Check): number {
  return overdraft === true ? 0 : hits;
}
