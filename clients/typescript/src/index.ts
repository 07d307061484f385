/**
 * Asks the nodes of a Tidegate region whether a request may pass. Runs where `fetch` is: Node, Deno, Workers.
 * Middleware for Express and Fastify is in `@tidegate/client/express` and `@tidegate/client/fastify`.
 */
export type { Attributes, Check, CheckOptions, RequestHeaders } from "./check.js";
export { Client } from "./client.js";
export type { Config, FailMode } from "./config.js";
export { AnswerError, RejectedError } from "./decision.js";
export type { Decision, FieldError, Limit, Source } from "./decision.js";
export { limitFetch } from "./fetch.js";
