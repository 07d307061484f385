// The Worker in workerd, before real nodes and an origin that counts what reaches it.
import assert from "node:assert/strict";
import { test } from "node:test";

import { answering, dead, node, passingOn, silent, stub } from "../../../../clients/typescript/build/servers.js";
import { worker } from "./workerd.js";

const RULES = `
version: 1
domains:
  - domain: web
    limits:
      - { name: five-an-hour, match: { api_key: { present: true } }, per: [api_key], limit: 5, window: 1h,
          algorithm: fixed_window }
      - { name: three-an-hour, match: { api_key: { present: false } }, per: [ip], limit: 3, window: 1h,
          algorithm: fixed_window }
`;

async function statuses(get, count, headers) {
  const all = [];
  for (let i = 0; i < count; i++) all.push((await get(headers)).status);
  return all;
}

test("exactly the limit of a key reaches the origin, and the denial has its headers", async (t) => {
  const { origin, get } = await worker(t, { TIDEGATE_NODES: (await node(t, RULES)).url });
  const first = await get({ "x-api-key": "k1" });
  assert.deepEqual([first.status, first.text], [200, "hello"]);
  assert.match(first.headers["ratelimit"], /^"five-an-hour";r=4;t=\d+$/);
  assert.deepEqual(await statuses(get, 6, { "x-api-key": "k1" }), [200, 200, 200, 200, 429, 429]);
  const denied = await get({ "x-api-key": "k1", origin: "https://app.example" });
  assert.deepEqual([denied.status, denied.text], [429, "Too Many Requests"]);
  assert.equal(denied.headers["ratelimit-policy"], '"five-an-hour";q=5;w=3600');
  assert.match(denied.headers["ratelimit"], /^"five-an-hour";r=0;t=\d+$/);
  assert.match(denied.headers["retry-after"], /^[1-9]\d*$/);
  assert.equal(denied.headers["access-control-allow-origin"], "https://app.example");
  assert.match(denied.headers["access-control-expose-headers"], /Retry-After/);
  assert.equal(origin.seen.length, 5);
});

test("clients without a key are counted by the addresses that Cloudflare names", async (t) => {
  const { get } = await worker(t, { TIDEGATE_NODES: (await node(t, RULES)).url });
  const all = [];
  for (const forged of ["198.51.100.1", "198.51.100.2", "198.51.100.3", "198.51.100.4"]) {
    const headers = { "x-forwarded-for": forged, "x-real-ip": forged, "true-client-ip": forged, forwarded: forged };
    all.push((await get({ ...headers, "cf-connecting-ip": "192.0.2.1" })).status);
  }
  assert.deepEqual(all, [200, 200, 200, 429]);
  assert.equal((await get({ "cf-connecting-ip": "192.0.2.2" })).status, 200);
});

test("no node is asked again until a denial ends", async (t) => {
  const before = await stub(t, passingOn(await node(t, RULES)));
  const { get } = await worker(t, { TIDEGATE_NODES: before.url });
  await statuses(get, 6, { "x-api-key": "k1" });
  assert.equal(before.seen.length, 6);
  assert.deepEqual(await statuses(get, 10, { "x-api-key": "k1" }), Array(10).fill(429));
  assert.equal(before.seen.length, 6);
  await get({ "x-api-key": "k2" });
  assert.equal(before.seen.length, 7);
});

test("a preflight is not counted", async (t) => {
  const before = await stub(t, passingOn(await node(t, RULES)));
  const { origin, get } = await worker(t, { TIDEGATE_NODES: before.url });
  const preflight = { origin: "https://app.example", "access-control-request-method": "GET" };
  assert.equal((await get(preflight, "OPTIONS")).status, 200);
  assert.deepEqual([before.seen.length, origin.seen.length], [0, 1]);
  for (const name of Object.keys(preflight)) await get({ [name]: preflight[name] }, "OPTIONS");
  assert.equal(before.seen.length, 2, "a request that lacks one of its headers is counted");
});

test("trace context, request id and token reach the node", async (t) => {
  const before = await stub(t, passingOn(await node(t, RULES)));
  const { get } = await worker(t, { TIDEGATE_NODES: before.url, TIDEGATE_TOKEN: "secret" });
  const traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  await get({ "x-api-key": "k1", traceparent, "x-request-id": "request-7", cookie: "private" });
  const [seen] = before.seen;
  assert.deepEqual([seen["traceparent"], seen["x-request-id"]], [traceparent, "request-7"]);
  assert.deepEqual([seen["authorization"], seen["cookie"]], ["Bearer secret", undefined]);
});

test("the next node is asked if the first fails", async (t) => {
  const stopped = await node(t, RULES);
  stopped.process.kill("SIGSTOP");
  for (const first of [await dead(), stopped.url, (await stub(t, answering(503))).url]) {
    const nodes = `${first}, ${(await node(t, RULES)).url}`;
    const settings = { TIDEGATE_NODES: nodes, TIDEGATE_FAIL_MODE: "deny", TIDEGATE_DEADLINE_MS: "2000" };
    const { get } = await worker(t, settings);
    assert.deepEqual(await statuses(get, 6, { "x-api-key": "k1" }), [200, 200, 200, 200, 200, 429]);
  }
});

for (const [mode, status, reached] of [["allow", 200, 1], ["deny", 503, 0]]) {
  test(`if no node answers in time, the fail mode ${mode} decides`, async (t) => {
    for (const url of [await dead(), (await stub(t, silent)).url]) {
      const settings = { TIDEGATE_NODES: url, TIDEGATE_FAIL_MODE: mode, TIDEGATE_DEADLINE_MS: "200" };
      const { origin, get } = await worker(t, settings);
      assert.equal((await get({ "x-api-key": "k1" })).status, status);
      assert.equal(origin.seen.length, reached);
    }
  });
}

test("a rejected check and wrong settings never fail open", async (t) => {
  const { url } = await node(t, RULES);
  for (const settings of [
    { TIDEGATE_NODES: url, TIDEGATE_DOMAIN: "" },
    { TIDEGATE_NODES: "" },
    { TIDEGATE_NODES: url, TIDEGATE_FAIL_MODE: "open" },
  ]) {
    const { origin, get } = await worker(t, settings);
    assert.equal((await get({ "x-api-key": "k1" })).status, 500);
    assert.equal(origin.seen.length, 0);
  }
});

test("a key of any length is an attribute, not an error", async (t) => {
  const { get } = await worker(t, { TIDEGATE_NODES: (await node(t, RULES)).url });
  assert.deepEqual(await statuses(get, 6, { "x-api-key": "x".repeat(8000) }), [200, 200, 200, 200, 200, 429]);
});
