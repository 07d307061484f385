// A server whose users may ask five times a minute, with the sample rules of `tidegate dev`:
//
//   tidegate dev &
//   node examples/express.js &
//   curl -i -H 'X-User: u1' http://127.0.0.1:8000/
import express from "express";
import { Client } from "@tidegate/client";
import { decisionOf, limit } from "@tidegate/client/express";

const client = new Client({ nodes: [process.env.TIDEGATE_URL ?? "http://127.0.0.1:8080"] });

const app = express();
app.use(limit(client, (request) => ({ domain: "demo", attributes: { user: request.headers["x-user"] ?? "" } })));
app.get("/", (request, response) => response.send(`hello; decided by: ${decisionOf(request).source}\n`));

const server = app.listen(Number(process.env.PORT ?? 8000), "127.0.0.1", (error) => {
  if (error) throw error;
  console.log(`listening on http://127.0.0.1:${server.address().port}`);
});
