import assert from "node:assert/strict";
import type { ServerResponse } from "node:http";
import { test } from "node:test";

import { AnswerError, Client, RejectedError } from "@tidegate/client";
import type { Config } from "@tidegate/client";

import { answering, client, dead, dripping, node, passingOn, silent, slow, stub, useUp } from "./servers.js";

const TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

test("exactly the limit is allowed, and the denial has its headers", async (t) => {
  const asked = client({ nodes: [(await node(t)).url] });
  const first = await slow(asked);
  assert.deepEqual([first.allowed, first.status, first.source], [true, 200, "node"]);
  const [limit] = first.limits;
  assert.deepEqual([limit?.name, limit?.limit, limit?.remaining, limit?.windowMs], ["five-an-hour", 5, 4, 3_600_000]);
  const [allowed, denial] = await useUp(asked);
  assert.deepEqual([allowed, denial.status, denial.limits[0]?.refused], [4, 429, true]);
  assert.ok(denial.retryAfterMs! > 0 && denial.retryAfterMs! <= 3_600_000);
  assert.deepEqual(Object.keys(denial.headers), ["ratelimit", "ratelimit-policy", "retry-after"]);
});

test("exactly the limit is allowed to many at once", async (t) => {
  const asked = client({ nodes: [(await node(t)).url] });
  const decisions = await Promise.all(Array.from({ length: 40 }, () => slow(asked)));
  assert.equal(decisions.filter((decision) => decision.allowed).length, 5);
});

for (const failure of ["dead", "stopped", "shedding"]) {
  test(`the next node is asked if the first is ${failure}`, async (t) => {
    const stopped = await node(t);
    stopped.process.kill("SIGSTOP");
    const shedding = await stub(t, answering(503));
    const first = { dead: await dead(), stopped: stopped.url, shedding: shedding.url }[failure]!;
    const asked = client({ nodes: [first, (await node(t)).url], deadlineMs: 2000, failMode: "deny" });
    const [allowed, denial] = await useUp(asked);
    assert.deepEqual([allowed, denial.source], [5, "node"]);
  });
}

test("a node that failed is asked after the others, until a second has passed", async (t) => {
  const failing = await stub(t, answering(500));
  const asked = client({ nodes: [failing.url, (await node(t)).url], denialCacheSize: 0 });
  const now = performance.now();
  t.mock.method(performance, "now", () => now);
  await slow(asked);
  await slow(asked);
  assert.equal(failing.seen.length, 1);
  t.mock.method(performance, "now", () => now + 1000);
  await slow(asked);
  assert.equal(failing.seen.length, 2);
});

for (const [failMode, allowed, status] of [
  [undefined, true, 200],
  ["allow", true, 200],
  ["deny", false, 503],
] as const) {
  test(`if no node answers, the fail mode ${failMode} decides`, async (t) => {
    const failing = await stub(t, answering(502));
    const decision = await slow(client({ nodes: [await dead(), failing.url, await dead()], failMode }));
    assert.deepEqual([decision.allowed, decision.status, decision.source], [allowed, status, "fail_mode"]);
    assert.match(decision.failure!, /ECONNREFUSED.*status 502/);
    assert.equal(failing.seen.length, 1);
  });
}

test("the deadline bounds both tries", async (t) => {
  const nodes = [await stub(t, silent), await stub(t, silent), await stub(t, silent)];
  const decision = await slow(client({ nodes: nodes.map(({ url }) => url), deadlineMs: 2000 }));
  assert.equal(decision.source, "fail_mode");
  assert.deepEqual(
    nodes.map(({ seen }) => seen.length),
    [1, 1, 0],
  );
});

test("an answer that goes on ends with the deadline", async (t) => {
  const server = await stub(t, dripping);
  assert.equal((await slow(client({ nodes: [server.url], deadlineMs: 200 }))).source, "fail_mode");
});

test("a check is sent as it was at the call, even if the caller reuses its objects", async (t) => {
  const asked = client({ nodes: [(await node(t)).url] });
  const [attributes, headers] = [{ kind: "slow", user: "" }, { "x-request-id": "" }];
  const ask = (user: string) => {
    attributes.user = headers["x-request-id"] = user;
    return asked.check("api", attributes, { headers });
  };
  const decisions = await Promise.all(["u1", "u2", "u3"].map(ask));
  assert.deepEqual(
    decisions.map(({ limits, requestId }) => [limits[0]?.remaining, requestId]),
    [
      [4, "u1"],
      [4, "u2"],
      [4, "u3"],
    ],
  );
});

test("a slow node within the deadline decides", async (t) => {
  const server = await stub(t, passingOn(await node(t), 100));
  const decision = await slow(client({ nodes: [server.url], failMode: "deny" }));
  assert.deepEqual([decision.allowed, decision.source], [true, "node"]);
});

test("a rejected check never fails open", async (t) => {
  const first = await stub(t, passingOn(await node(t)));
  const other = await stub(t, answering(200, '{"allowed":true}'));
  const asked = client({ nodes: [first.url, other.url], failMode: "allow" });
  await assert.rejects(asked.check(""), (error) => {
    return error instanceof RejectedError && error.status === 400 && error.errors[0]?.pointer === "/domain";
  });
  const long = Object.fromEntries([..."abcdefghijklmnopqrstuvwxyz"].map((name) => [name, "x".repeat(4000)]));
  await assert.rejects(asked.check("api", long), (error) => {
    return error instanceof RejectedError && error.status === 413 && error.title !== "";
  });
  // A body that is too long is not sent.
  assert.deepEqual([first.seen.length, other.seen.length], [1, 0]);
});

for (const [status, text, kind] of [
  [401, '{"title":"expected Authorization: Bearer"}', RejectedError],
  [404, "not found", RejectedError],
  [408, "{}", RejectedError],
  [200, "<html>", AnswerError],
  [401, '{"allowed":true}', RejectedError],
  [200, '{"allowed":"yes"}', AnswerError],
  [200, '{"allowed":false}', AnswerError],
  [307, "", AnswerError],
] as const) {
  test(`status ${status} with ${text} never fails open`, async (t) => {
    const server = await stub(t, answering(status, text, { location: "/" }));
    await assert.rejects(slow(client({ nodes: [server.url], failMode: "allow" })), kind);
  });
}

const LONG = " ".repeat(1 << 20) + '{"allowed":true}';

test("a 200 that is too long never fails open", async (t) => {
  const server = await stub(t, answering(200, LONG));
  await assert.rejects(slow(client({ nodes: [server.url], failMode: "allow" })), AnswerError);
});

for (const [name, body] of [
  ["is another", (response) => response.end("slow down")],
  ["contradicts it", (response) => response.end('{"allowed":true}')],
  ["breaks", (response) => response.write("{", () => response.destroy())],
  ["is late", (response) => response.flushHeaders()],
  ["is too long", (response) => response.end(LONG)],
] as [string, (response: ServerResponse) => unknown][]) {
  test(`a 4xx with a body that ${name} never fails open`, async (t) => {
    const other = await stub(t, answering(200, '{"allowed":true}'));
    const ask = async (status: number) => {
      const server = await stub(t, (_, response) => body(response.writeHead(status, { "retry-after": "7" })));
      return slow(client({ nodes: [server.url, other.url], deadlineMs: 2000, failMode: "allow" }));
    };
    const denial = await ask(429);
    assert.deepEqual([denial.allowed, denial.status, denial.retryAfterMs], [false, 429, 7000]);
    assert.deepEqual(denial.headers, { "retry-after": "7" });
    await assert.rejects(ask(403), (error) => error instanceof RejectedError && error.status === 403);
    assert.equal(other.seen.length, 0);
  });
}

test("an invalid key is a denial", async (t) => {
  const text = '{"allowed":false,"reason":"revoked_key","retry_after_ms":null,"limits":[]}';
  const server = await stub(t, answering(401, text, { "www-authenticate": "ApiKey" }));
  const decision = await slow(client({ nodes: [server.url] }));
  assert.deepEqual([decision.allowed, decision.status, decision.reason], [false, 401, "revoked_key"]);
  assert.deepEqual(decision.headers, { "www-authenticate": "ApiKey" });
});

test("trace context, request id and token arrive", async (t) => {
  const server = await stub(t, passingOn(await node(t)));
  const asked = client({ nodes: [server.url], token: "secret" });
  const sent = { Traceparent: TRACE, tracestate: ["a=1", "b=2"], "X-Request-ID": "request-7", cookie: "private" };
  const decision = await slow(asked, "u1", { headers: sent });
  await slow(asked, "u1", { headers: new Headers({ traceparent: TRACE }) });
  const [first, second] = server.seen;
  assert.equal(decision.requestId, "request-7");
  assert.deepEqual([first!["traceparent"], first!["tracestate"], second!["traceparent"]], [TRACE, "a=1, b=2", TRACE]);
  assert.deepEqual([first!.authorization, first!.cookie], ["Bearer secret", undefined]);
});

test("a fetch of the caller sends the requests", async (t) => {
  const { url } = await node(t);
  const sent: unknown[] = [];
  const counting: typeof fetch = (input, init) => {
    sent.push(input);
    return fetch(input, init);
  };
  assert.equal((await slow(client({ nodes: [url], fetch: counting }))).source, "node");
  assert.deepEqual(sent, [`${url}/v1/check`]);
});

test("a header that cannot be sent is left out", async (t) => {
  const server = await stub(t, passingOn(await node(t)));
  const values = ["a\r\nb: c", "é", "", "x".repeat(1025)];
  for (const value of values) {
    const decision = await slow(client({ nodes: [server.url] }), "u1", { headers: { "x-request-id": value } });
    assert.equal(decision.source, "node");
  }
  assert.deepEqual(
    server.seen.map((headers) => headers["x-request-id"]),
    values.map(() => undefined),
  );
});

test("a long header of a user does not switch off the limit", async (t) => {
  const asked = client({ nodes: [(await node(t)).url], denialCacheSize: 0, failMode: "allow" });
  await useUp(asked);
  const long = "x".repeat(3 << 20);
  for (let i = 0; i < 5; i++) {
    const headers = { traceparent: long, tracestate: long, "x-request-id": long };
    assert.equal((await slow(asked, "u1", { headers })).allowed, false);
  }
});

test("an attribute that is undefined is rejected, not left out", async (t) => {
  const asked = client({ nodes: [(await node(t)).url], failMode: "allow" });
  const attributes = { kind: "slow", user: undefined as unknown as string };
  for (const [pointer, ask] of [
    ["/attributes/user", () => asked.check("api", attributes)],
    ["/descriptors/0/user", () => asked.check("api", undefined, { descriptors: [attributes] })],
  ] as const) {
    await assert.rejects(ask(), (error) => error instanceof RejectedError && error.errors[0]?.pointer === pointer);
  }
  const [batched] = await asked.checkAll([{ domain: "api", attributes }]);
  assert.ok(batched instanceof RejectedError);
});

const nodes = ["http://a:1"];
for (const [name, config] of [
  ["nodes:", { nodes: [] }],
  ["nodes[1]", { nodes: ["http://a:1", "b:2"] }],
  ["nodes[0]", { nodes: ["http://a:1 "] }],
  ["nodes[0]", { nodes: ["http://user:password@a"] }],
  ["nodes[0]", { nodes: ["http://a?"] }],
  ["nodes[0]", { nodes: ["http://a#"] }],
  ["deadlineMs", { nodes, deadlineMs: 0 }],
  ["deadlineMs", { nodes, deadlineMs: 3_600_001 }],
  ["failMode", { nodes, failMode: "open" as "allow" }],
  ["token", { nodes, token: "secret\n" }],
  ["denialCacheSize", { nodes, denialCacheSize: -1 }],
  ["maxInFlight", { nodes, maxInFlight: 0 }],
  ["denialCacheLongestMs", { nodes, denialCacheLongestMs: NaN }],
] as [string, Config][]) {
  test(`a wrong configuration is an error that names ${name}`, () => {
    assert.throws(
      () => new Client(config),
      (error) => error instanceof TypeError && error.message.startsWith(name),
    );
  });
}
