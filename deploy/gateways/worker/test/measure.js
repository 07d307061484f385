// Measures the Worker, and prints the tables of docs/gateways/worker.md: the latency that it adds to workerd, and the
// requests that fail when one of two nodes stops. The servers of the client's tests must be built.
import assert from "node:assert/strict";
import { writeFileSync, readFileSync } from "node:fs";
import { setTimeout as sleep } from "node:timers/promises";

import { node } from "../../../../clients/typescript/build/servers.js";
import { worker } from "./workerd.js";

const RULES = `
version: 1
domains:
  - domain: web
    limits: [{ name: key, per: [api_key], limit: 1000000000, window: 1d, algorithm: fixed_window }]
`;
const SETTINGS = { TIDEGATE_FAIL_MODE: "deny", TIDEGATE_DEADLINE_MS: "250" };
const cleanups = [];
const t = { after: (cleanup) => cleanups.push(cleanup) };

/** Returns the times of 1,000 requests of each of two clients, in milliseconds, sorted. */
async function times({ get }) {
  const all = [];
  const client = async () => {
    for (let i = 0; i < 1000; i++) {
      const start = performance.now();
      assert.equal((await get({ "x-api-key": "k" })).status, 200);
      all.push(performance.now() - start);
    }
  };
  await Promise.all([client(), client()]);
  return all.sort((a, b) => a - b);
}

const median = (values) => values.sort((a, b) => a - b)[Math.floor(values.length / 2)];

/** Prints the medians of five turns, in which workerd without and with the Worker take turns. */
async function addedLatency() {
  writeFileSync("dist/bare.js", "export default { fetch: (request) => fetch(request) };");
  writeFileSync("dist/bare.capnp", readFileSync("workerd.capnp", "utf8").replace("dist/worker.js", "bare.js"));
  const { url } = await node(t, RULES);
  const servers = [await worker(t, {}, "dist/bare.capnp"), await worker(t, { ...SETTINGS, TIDEGATE_NODES: url })];
  const turns = servers.map(() => []);
  for (let turn = 0; turn < 6; turn++) {
    for (const [at, server] of servers.entries()) {
      const all = await times(server);
      // The first turn warms up.
      if (turn > 0) turns[at].push([0.5, 0.99].map((part) => all[all.length * part]));
    }
  }
  const [bare, limited] = turns.map((turn) => [0, 1].map((which) => median(turn.map((pair) => pair[which]))));
  const show = (pair) => pair.map((ms) => ms.toFixed(2)).join(", ");
  console.log("| without: p50, p99 ms | with: p50, p99 ms | added: p50, p99 ms |\n|---|---|---|");
  console.log(`| ${show(bare)} | ${show(limited)} | ${show([limited[0] - bare[0], limited[1] - bare[1]])} |`);
}

/** Four clients send a request every 5 ms for 4 s. After 1 s, one of two nodes gets a signal. */
async function stoppedNodes() {
  console.log("\n| signal | requests | failed | longest, ms |\n|---|---|---|---|");
  for (const signal of ["SIGTERM", "SIGKILL", "SIGSTOP"]) {
    const nodes = [await node(t, RULES), await node(t, RULES)];
    const { get } = await worker(t, { ...SETTINGS, TIDEGATE_NODES: nodes.map(({ url }) => url).join(",") });
    const answers = [];
    const begin = performance.now();
    const client = async () => {
      while (performance.now() - begin < 4000) {
        const start = performance.now();
        const { status } = await get({ "x-api-key": "k" });
        answers.push([status, performance.now() - start]);
        await sleep(5);
      }
    };
    const clients = [client(), client(), client(), client()];
    await sleep(1000);
    nodes[0].process.kill(signal);
    await Promise.all(clients);
    const failed = answers.filter(([status]) => status !== 200).length;
    const longest = Math.max(...answers.map(([, ms]) => ms));
    console.log(`| ${signal} | ${answers.length} | ${failed} | ${Math.round(longest)} |`);
  }
}

await addedLatency();
await stoppedNodes();
for (const cleanup of cleanups) cleanup();
process.exit();
