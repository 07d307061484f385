import assert from "node:assert/strict";
import { test } from "node:test";

import type { Client } from "@tidegate/client";

import { Places, WAITERS_PER_PLACE } from "../dist/places.js";
import { client, node, overloaded, passingOn, silent, slow, stub } from "./servers.js";

/** Makes many checks at once. Returns how many were allowed. */
async function allowedAtOnce(asked: Client, count: number): Promise<number> {
  const all = Array.from({ length: count }, () => asked.check("api", { kind: "many", user: "u1" }));
  return (await Promise.all(all)).filter((decision) => decision.allowed).length;
}

for (const [denialCacheSize, count] of [
  [10_000, 1000],
  [0, 200],
] as const) {
  test(`${count} checks at once do not overload the node, with ${denialCacheSize} denials remembered`, async (t) => {
    const { url } = await stub(t, overloaded(await node(t), 64));
    const asked = client({ nodes: [url], failMode: "allow", denialCacheSize });
    assert.equal(await allowedAtOnce(asked, count), 10);
  });
}

test("a check that waited is denied by the answer to another", async (t) => {
  const server = await stub(t, passingOn(await node(t)));
  const asked = client({ nodes: [server.url], maxInFlight: 1 });
  await Promise.all(Array.from({ length: 100 }, () => slow(asked)));
  assert.equal(server.seen.length, 6);
});

test("the wait for a place ends with the deadline", async (t) => {
  const { url } = await stub(t, silent);
  const asked = client({ nodes: [url], failMode: "deny", maxInFlight: 1, deadlineMs: 500 });
  const decisions = await Promise.all(Array.from({ length: 20 }, () => slow(asked)));
  assert.deepEqual(new Set(decisions.map(({ status, source }) => `${status} ${source}`)), new Set(["503 fail_mode"]));
});

test("few wait, and a place is given back", async () => {
  const places = new Places(1);
  assert.equal(await places.take(0), undefined);
  const ended = await Promise.all(Array.from({ length: WAITERS_PER_PLACE + 2 }, () => places.take(50)));
  const late = ended.filter((why) => why === "1 other calls were in flight until the deadline");
  const many = ended.filter((why) => why === "too many calls wait for others to end");
  assert.deepEqual([late.length, many.length], [WAITERS_PER_PLACE, 2]);
  const next = places.take(20_000);
  places.leave();
  assert.equal(await next, undefined);
  places.leave();
  assert.equal(await places.take(0), undefined);
});
