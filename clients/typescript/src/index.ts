/**
 * Asks the nodes of a Tidegate region whether a request may pass. Runs where `fetch` is: Node, Deno, Workers.
 * Middleware for Express and Fastify is in `@tidegate/client/express` and `@tidegate/client/fastify`.
 */
export { Client } from "./client.js";
export type { CheckOptions } from "./client.js";
export type { Config, FailMode } from "./config.js";
export { AnswerError, RejectedError } from "./decision.js";
export type { Attributes, Decision, FieldError, Limit, Source } from "./decision.js";
export { limitFetch } from "./fetch.js";
export type { Check } from "./middleware.js";
