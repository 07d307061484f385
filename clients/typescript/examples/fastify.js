// A server whose users may ask five times a minute, with the sample rules of `tidegate dev`:
//
//   tidegate dev &
//   node examples/fastify.js &
//   curl -i -H 'X-User: u1' http://127.0.0.1:8000/
import fastify from "fastify";
import { Client } from "@tidegate/client";
import { limit } from "@tidegate/client/fastify";

const client = new Client({ nodes: [process.env.TIDEGATE_URL ?? "http://127.0.0.1:8080"] });

const app = fastify();
await app.register(limit, {
  client,
  describe: (request) => ({ domain: "demo", attributes: { user: request.headers["x-user"] ?? "" } }),
});
app.get("/", (request) => `hello; decided by: ${request.tidegate.source}\n`);

const address = await app.listen({ port: Number(process.env.PORT ?? 8000), host: "127.0.0.1" });
console.log(`listening on ${address}`);
