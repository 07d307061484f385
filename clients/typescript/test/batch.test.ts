import assert from "node:assert/strict";
import { test } from "node:test";

import { AnswerError, RejectedError } from "@tidegate/client";
import type { Check, Decision } from "@tidegate/client";

import { answering, client, dead, node, passingOn, slow, stub, useUp } from "./servers.js";

const ofUser = (user: string, hits?: number): Check => ({ domain: "api", attributes: { kind: "slow", user }, hits });

function decided(result: Decision | RejectedError | undefined): Decision {
  assert.ok(result !== undefined && !(result instanceof Error));
  return result;
}

test("each check of a batch is decided for itself", async (t) => {
  const server = await stub(t, passingOn(await node(t)));
  const asked = client({ nodes: [server.url] });
  const checks = [ofUser("u1", 5), ofUser("u1"), { domain: "" }, ofUser("u2")];
  const results = await asked.checkAll(checks, { headers: { "x-request-id": "request-7" } });
  assert.equal(results.length, 4);
  const first = decided(results[0]);
  assert.deepEqual([first.allowed, first.status, first.requestId], [true, 200, "request-7"]);
  const second = decided(results[1]);
  assert.deepEqual([second.allowed, second.status, second.retryAfterMs! > 0], [false, 429, true]);
  const third = results[2];
  assert.ok(third instanceof RejectedError);
  assert.deepEqual([third.status, third.errors[0]?.pointer], [400, "/domain"]);
  assert.equal(decided(results[3]).limits[0]?.remaining, 4);
  assert.deepEqual(await asked.checkAll([]), []);
  assert.equal(server.seen.length, 1);
});

test("half a character in one check does not reject the others", async (t) => {
  const asked = client({ nodes: [(await node(t)).url], failMode: "allow" });
  const several = { domain: "api", descriptors: [{ kind: "slow", user: "\udc00a" }] };
  const [good, first, second] = await asked.checkAll([ofUser("u1"), ofUser("a\ud800"), several]);
  assert.equal(decided(good).allowed, true);
  assert.ok(first instanceof RejectedError && second instanceof RejectedError);
  assert.deepEqual([first.errors[0]?.pointer, second.errors[0]?.pointer], ["/attributes/user", "/descriptors/0/user"]);
});

test("a batch is sent as it was at the call, even if the caller reuses its objects", async (t) => {
  const asked = client({ nodes: [(await node(t)).url] });
  const attributes = { kind: "slow", user: "u1" };
  const checks = [{ domain: "api", attributes }, ofUser("u3")];
  const first = asked.checkAll(checks);
  attributes.user = "u2";
  checks.pop();
  const results = [...(await first), ...(await asked.checkAll(checks))];
  assert.deepEqual(
    results.map((result) => decided(result).limits[0]?.remaining),
    [4, 4, 4],
  );
});

test("the fail mode decides about a batch that no node answers", async (t) => {
  for (const result of await client({ nodes: [await dead()], failMode: "deny" }).checkAll([ofUser("a"), ofUser("b")])) {
    assert.deepEqual([decided(result).source, decided(result).status], ["fail_mode", 503]);
  }
  const text = '{"results":[{"error":{"status":503}},{"allowed":false,"reason":"unknown_key"}]}';
  const { url } = await stub(t, answering(200, text));
  const [shed, unknown] = await client({ nodes: [url] }).checkAll([ofUser("a"), ofUser("b")]);
  assert.equal(decided(shed).source, "fail_mode");
  assert.match(decided(shed).failure!, /status 503/);
  assert.deepEqual([decided(unknown).source, decided(unknown).status], ["node", 401]);
});

test("a rejected batch never fails open", async (t) => {
  const asked = client({ nodes: [(await node(t)).url], failMode: "allow" });
  for (const [status, count, check] of [
    [400, 1001, { domain: "" }],
    [413, 300, ofUser("x".repeat(4000))],
  ] as const) {
    await assert.rejects(asked.checkAll(Array<Check>(count).fill(check)), (error) => {
      return error instanceof RejectedError && error.status === status;
    });
  }
  for (const text of ["{}", '{"results":[]}', '{"results":[{}]}', '{"results":[null]}', '{"results":[{"error":{}}]}']) {
    const { url } = await stub(t, answering(200, text));
    await assert.rejects(client({ nodes: [url], failMode: "allow" }).checkAll([ofUser("a")]), AnswerError, text);
  }
});

test("all descriptors of a check must fit", async (t) => {
  const asked = client({ nodes: [(await node(t)).url] });
  const both = ["u1", "u2"].map((user) => ({ kind: "slow", user }));
  const first = await asked.check("api", undefined, { descriptors: both });
  assert.deepEqual(
    first.limits.map(({ descriptor }) => descriptor),
    [0, 1],
  );
  assert.equal((await useUp(asked, "u2"))[0], 4);
  const denial = await asked.check("api", undefined, { descriptors: both });
  assert.deepEqual([denial.allowed, ...denial.limits.map(({ refused }) => refused)], [false, false, true]);
  assert.equal((await asked.check("api", undefined, { descriptors: both })).source, "denial_cache");
  const one = await asked.check("api", undefined, { descriptors: both.slice(0, 1) });
  assert.equal(one.limits[0]?.remaining, 3);
  await assert.rejects(asked.check("api", { user: "u3" }, { descriptors: both }), (error) => {
    return error instanceof RejectedError && error.message.includes("/descriptors");
  });
});

test("overdraft charges in any case", async (t) => {
  const server = await stub(t, passingOn(await node(t)));
  const asked = client({ nodes: [server.url] });
  const costly = { hits: 4, overdraft: true };
  const decisions = [await slow(asked, "u1", costly), await slow(asked, "u1", costly), await slow(asked, "u1")];
  decisions.push(await slow(asked, "u1", costly));
  assert.deepEqual(
    decisions.map(({ allowed, source }) => [allowed, source]),
    [true, false, false, false].map((allowed) => [allowed, "node"]),
  );
  assert.equal(server.seen.length, 4);
});
