import assert from "node:assert/strict";
import { test } from "node:test";
import type { TestContext } from "node:test";

import { RejectedError } from "@tidegate/client";
import type { Client } from "@tidegate/client";

import { Places, WAITERS_PER_PLACE } from "../dist/places.js";
import { answering, client, node, overloaded, passingOn, PATIENCE, silent, slow, stub, until } from "./servers.js";

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

test("a body that is too long is rejected even if no place is free", async (t) => {
  const { url } = await stub(t, silent);
  const asked = client({ nodes: [url], failMode: "allow", maxInFlight: 1, deadlineMs: 500 });
  const others = Array.from({ length: 1 + WAITERS_PER_PLACE }, () => slow(asked));
  const attributes = { user: "x".repeat(4000) };
  const tooLong = (error: unknown) => error instanceof RejectedError && error.status === 413;
  await assert.rejects(asked.check("api", undefined, { descriptors: Array(20).fill(attributes) }), tooLong);
  await assert.rejects(asked.checkAll(Array(300).fill({ domain: "api", attributes })), tooLong);
  await Promise.all(others);
});

/**
 * Makes two checks with one place. Lets the node answer to the first when a part of the deadline of both has passed.
 * Returns the source of the second decision.
 */
async function sourceOfLate(t: TestContext, passed: number, nodes: string[], held: Held): Promise<string> {
  const asked = client({ nodes, maxInFlight: 1, failMode: "deny" });
  const [first, second] = [slow(asked, "u1"), slow(asked, "u2")];
  await until(async () => held.seen() === 1);
  const now = performance.now.bind(performance);
  t.mock.method(performance, "now", () => now() + passed * PATIENCE);
  held.open();
  assert.equal((await first).source, "node");
  const { source } = await second;
  assert.equal((await slow(asked, "u3")).source, "node");
  return source;
}

interface Held {
  url: string;
  seen: () => number;
  open: () => void;
}

/** Runs a server that answers its first request after `open`, and the others with `later`. */
async function held(t: TestContext, later: number): Promise<Held> {
  let open = () => {};
  const opened = new Promise<void>((resolve) => (open = resolve));
  const { url, seen } = await stub(t, (request, response) => {
    const answer = answering(seen.length === 1 ? 200 : later, '{"allowed":true}');
    void opened.then(() => answer(request, response));
  });
  return { url, seen: () => seen.length, open };
}

test("a check that gets its place too late is not sent", async (t) => {
  const server = await held(t, 200);
  assert.equal(await sourceOfLate(t, 0.8, [server.url], server), "fail_mode");
  assert.equal(server.seen(), 2);
});

test("a node that fails in a short try is still asked first", async (t) => {
  const [first, other] = [await held(t, 500), await stub(t, answering(200, '{"allowed":true}'))];
  assert.equal(await sourceOfLate(t, 0.6, [first.url, other.url], first), "node");
  assert.deepEqual([first.seen(), other.seen.length], [3, 2]);
});

test("few wait, and a place is given back", async () => {
  const places = new Places(1, 0);
  assert.equal(await places.take(0), undefined);
  const soon = performance.now() + 50;
  const ended = await Promise.all(Array.from({ length: WAITERS_PER_PLACE + 2 }, () => places.take(soon)));
  const late = ended.filter((why) => why === "1 other calls were in flight until the deadline was near");
  const many = ended.filter((why) => why === "too many calls wait for others to end");
  assert.deepEqual([late.length, many.length], [WAITERS_PER_PLACE, 2]);
  const next = places.take(performance.now() + PATIENCE);
  places.leave();
  assert.equal(await next, undefined);
  places.leave();
  assert.equal(await places.take(0), undefined);
});
