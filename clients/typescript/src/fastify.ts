import type { FastifyInstance, FastifyRequest } from "fastify";

import type { Check } from "./check.js";
import type { Client } from "./client.js";
import type { Decision } from "./decision.js";
import { ask, PHRASES } from "./middleware.js";

export type { Check };

declare module "fastify" {
  interface FastifyRequest {
    /** The decision that the request got; `null` if it is not limited. */
    tidegate: Decision | null;
  }
}

/** The options of the plugin. */
export interface Options {
  client: Client;
  /** Returns what to ask for a request, or `undefined` for a request that is not limited. */
  describe: (request: FastifyRequest) => Check | undefined;
}

/**
 * A plugin for Fastify: it asks for each request before its handler. A request that is denied is answered with the
 * decision's status and headers. A check that is an error throws, so that Fastify answers 500.
 */
export const limit = Object.assign(
  async (fastify: FastifyInstance, { client, describe }: Options): Promise<void> => {
    fastify.decorateRequest("tidegate", null);
    fastify.addHook("onRequest", async (request, reply) => {
      const check = describe(request);
      if (check === undefined) return;
      const decision = await ask(client, check, request.headers);
      request.tidegate = decision;
      reply.headers(decision.headers);
      if (!decision.allowed) {
        await reply.code(decision.status).type("text/plain").send(PHRASES[decision.status]);
      }
    });
  },
  // The hook is for the routes of the server that registers the plugin, not only for those of the plugin.
  { [Symbol.for("skip-override")]: true },
);
