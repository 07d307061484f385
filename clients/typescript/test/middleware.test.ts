import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { test } from "node:test";
import type { TestContext } from "node:test";

import { limitFetch } from "@tidegate/client";
import type { Client } from "@tidegate/client";
import { decisionOf, limit } from "@tidegate/client/express";
import { limit as fastifyLimit } from "@tidegate/client/fastify";
import express from "express";
import fastify from "fastify";

import { client, dead, line, node, passingOn, silent, stub } from "./servers.js";

/** A server behind a middleware: it answers with who decided. */
type Serve = (
  t: TestContext,
  asked: Client,
  domain: string,
) => Promise<(path?: string, user?: string) => Promise<Response>>;

const TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

function describe(domain: string, path: string, user: unknown) {
  return path === "/health" ? undefined : { domain, attributes: { kind: "slow", user: String(user) } };
}

const requests =
  (url: string) =>
  (path = "/", user = "u1") =>
    fetch(url + path, { headers: { "x-user": user, traceparent: TRACE } });

const servers: Record<string, Serve> = {
  async express(t, asked, domain) {
    const app = express();
    app.set("env", "test"); // The errors of this server are expected, and not logged.
    app.use(limit(asked, (request: express.Request) => describe(domain, request.path, request.headers["x-user"])));
    app.use(
      (request, response) => void response.set("decided-by", decisionOf(request)?.source ?? "nobody").send("hello"),
    );
    const server = app.listen(0, "127.0.0.1");
    await new Promise((resolve) => server.once("listening", resolve));
    t.after(() => void server.close());
    return requests(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  },
  async fastify(t, asked, domain) {
    const app = fastify();
    await app.register(fastifyLimit, {
      client: asked,
      describe: (request) => describe(domain, request.url, request.headers["x-user"]),
    });
    app.get("/*", (request, reply) => reply.header("decided-by", request.tidegate?.source ?? "nobody").send("hello"));
    t.after(() => app.close());
    return requests(await app.listen({ port: 0, host: "127.0.0.1" }));
  },
  async fetch(t, asked, domain) {
    const origin = createServer((_, response) => response.setHeader("decided-by", "hidden").end("hello"));
    await new Promise<void>((resolve) => origin.listen(0, "127.0.0.1", resolve));
    t.after(() => void origin.close());
    const url = `http://127.0.0.1:${(origin.address() as AddressInfo).port}`;
    const what = (request: Request) => describe(domain, new URL(request.url).pathname, request.headers.get("x-user"));
    const limited = limitFetch(asked, what, (request) => fetch(request));
    return async (path = "/", user = "u1") => {
      try {
        return await limited(new Request(url + path, { headers: { "x-user": user, traceparent: TRACE } }));
      } catch (error) {
        return new Response(String(error), { status: 500 });
      }
    };
  },
};

for (const [name, serve] of Object.entries(servers)) {
  test(`${name} answers denials`, async (t) => {
    const server = await stub(t, passingOn(await node(t)));
    const get = await serve(t, client({ nodes: [server.url] }), "api");
    for (let i = 0; i < 5; i++) {
      const answer = await get();
      assert.equal(answer.status, 200);
      assert.equal(await answer.text(), "hello");
      assert.ok(answer.headers.get("ratelimit") && answer.headers.get("ratelimit-policy"));
      assert.ok(["node", "hidden"].includes(answer.headers.get("decided-by")!));
    }
    const denied = await get();
    assert.deepEqual([denied.status, await denied.text()], [429, "Too Many Requests"]);
    for (const header of ["ratelimit", "ratelimit-policy", "retry-after"])
      assert.ok(denied.headers.get(header), header);
    assert.equal(server.seen[0]!["traceparent"], TRACE);
    assert.equal((await get("/health")).status, 200);
  });

  test(`${name} fails as configured`, async (t) => {
    const nodes = [await dead()];
    assert.equal((await (await serve(t, client({ nodes }), "api"))()).status, 200);
    assert.equal((await (await serve(t, client({ nodes, failMode: "deny" }), "api"))()).status, 503);
    const rejecting = client({ nodes: [(await node(t)).url], failMode: "allow" });
    assert.equal((await (await serve(t, rejecting, ""))()).status, 500);
  });
}

for (const example of ["express.js", "fastify.js"]) {
  test(`the example ${example} runs`, async (t) => {
    const { url } = await node(t, "");
    const environment = { ...process.env, TIDEGATE_URL: url, PORT: "0" };
    const program = spawn(process.execPath, [`examples/${example}`], {
      env: environment,
      stdio: ["ignore", "pipe", "inherit"],
    });
    t.after(() => void program.kill("SIGKILL"));
    const server = (await line(program.stdout, (text) => text.startsWith("listening on "))).slice(
      "listening on ".length,
    );
    const statuses = [];
    for (let i = 0; i < 6; i++) statuses.push((await fetch(server, { headers: { "x-user": "u1" } })).status);
    assert.deepEqual(statuses, [200, 200, 200, 200, 200, 429]);
  });

  test(`the example ${example} says that its port is taken`, async (t) => {
    const { port } = new URL((await stub(t, silent)).url);
    const program = spawn(process.execPath, [`examples/${example}`], {
      env: { ...process.env, PORT: port },
      stdio: ["ignore", "ignore", "pipe"],
    });
    t.after(() => void program.kill("SIGKILL"));
    assert.match(await line(program.stderr, (text) => text.includes("Error")), /EADDRINUSE/);
  });
}
