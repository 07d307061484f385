import assert from "node:assert/strict";
import { test } from "node:test";

import type { Decision } from "@tidegate/client";

import { DenialCache } from "../dist/denials.js";
import { client, node, passingOn, slow, stub, until, useUp } from "./servers.js";

test("a node is not asked again until the denial ends", async (t) => {
  const server = await stub(t, passingOn(await node(t)));
  const asked = client({ nodes: [server.url] });
  const [, first] = await useUp(asked);
  const before = server.seen.length;
  for (let i = 0; i < 20; i++) {
    const again = await slow(asked);
    assert.deepEqual([again.allowed, again.status, again.source], [false, 429, "denial_cache"]);
    assert.ok(again.retryAfterMs! <= first.retryAfterMs!);
  }
  assert.equal((await asked.check("api", { user: "u1", kind: "slow" })).source, "denial_cache");
  assert.equal(server.seen.length, before);
  await slow(asked, "u2");
  assert.equal(server.seen.length, before + 1);
});

test("the node is asked again when the denial has ended", async (t) => {
  const asked = client({ nodes: [(await node(t)).url] });
  await useUp(asked, "u1", "fast");
  await until(async () => (await asked.check("api", { kind: "fast", user: "u1" })).allowed);
});

test("a denial covers only checks of at least its hits", async (t) => {
  const asked = client({ nodes: [(await node(t)).url] });
  await slow(asked, "u1", { hits: 3 });
  assert.equal((await slow(asked, "u1", { hits: 3 })).allowed, false);
  assert.equal((await slow(asked, "u1", { hits: 4 })).source, "denial_cache");
  const peek = await slow(asked, "u1", { hits: 0 });
  assert.deepEqual([peek.allowed, peek.source, peek.limits[0]?.remaining], [true, "node", 2]);
  const fits = await slow(asked, "u1", { hits: 2 });
  assert.deepEqual([fits.allowed, fits.source], [true, "node"]);
});

test("denials that no wait ends are not remembered", async (t) => {
  const server = await stub(t, passingOn(await node(t)));
  const asked = client({ nodes: [server.url] });
  for (const count of [1, 2]) {
    assert.equal((await slow(asked, "u1", { hits: 6 })).allowed, false);
    assert.equal(server.seen.length, count);
  }
});

test("the cache is bounded, and can be turned off", async (t) => {
  const server = await stub(t, passingOn(await node(t)));
  const asked = client({ nodes: [server.url], denialCacheSize: 2 });
  for (const user of ["u1", "u2", "u3"]) await useUp(asked, user);
  assert.equal(asked.denials, 2);
  assert.equal((await slow(asked, "u3")).source, "denial_cache");
  assert.equal((await slow(asked, "u1")).source, "node");

  const off = client({ nodes: [server.url], denialCacheSize: 0 });
  const before = server.seen.length;
  for (let i = 0; i < 3; i++) await slow(off, "u1");
  assert.equal(server.seen.length, before + 3);
});

const limit = {
  name: "a",
  descriptor: 0,
  algorithm: "fixed_window",
  limit: 5,
  remaining: 0,
  windowMs: 100_000,
  resetMs: 100_000,
  refused: true,
  shadow: false,
};
const denial: Decision = {
  allowed: false,
  status: 429,
  source: "node",
  degraded: false,
  partitioned: false,
  reason: undefined,
  revision: 1,
  requestId: "",
  retryAfterMs: 90_500,
  limits: [limit],
  failure: undefined,
  headers: { "retry-after": "91", ratelimit: '"a";r=0;t=91, "b";r=7;t=20' },
};

test("the times of a remembered denial go on", () => {
  const cache = new DenialCache(10, 60_000);
  cache.add("key", 1, denial, 1_000_000);
  const later = cache.find("key", 1, 1_031_000);
  assert.deepEqual([later?.retryAfterMs, later?.limits[0]?.resetMs], [59_500, 69_000]);
  assert.deepEqual(later?.headers, { "retry-after": "60", ratelimit: '"a";r=0;t=60, "b";r=7;t=0' });
  assert.equal(cache.find("key", 1, 1_060_000), undefined, "expected to remember a denial for a minute at most");
  assert.equal(cache.size, 0);
});

test("a caller that changes its denial changes no other", () => {
  const cache = new DenialCache(10, 60_000);
  const given = { ...denial, headers: { ...denial.headers }, limits: [{ ...limit }] };
  cache.add("key", 1, given, 0);
  Object.assign(given, { allowed: true });
  Object.assign(given.headers, { ratelimit: "changed" });
  Object.assign(given.limits[0]!, { name: "changed" });
  const found = cache.find("key", 1, 0);
  assert.deepEqual([found?.allowed, found?.headers, found?.limits], [false, denial.headers, [limit]]);
});

test("only short denials that end are remembered", () => {
  const cache = new DenialCache(10, 60_000);
  cache.add("key", 1, { ...denial, allowed: true }, 0);
  cache.add("key", 1, { ...denial, retryAfterMs: null }, 0);
  cache.add("key", 0, denial, 0);
  cache.add("x".repeat(2049), 1, denial, 0);
  cache.add("key", 1, { ...denial, limits: Array.from({ length: 21 }, () => limit) }, 0);
  assert.equal(cache.size, 0);
});
