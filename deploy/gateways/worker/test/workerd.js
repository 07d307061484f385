// The Worker in workerd, before an origin that counts what reaches it.
import { spawn } from "node:child_process";
import { Agent, request } from "node:http";

import { answering, line, stub } from "../../../../clients/typescript/build/servers.js";

/** Runs the Worker until the test ends. Returns an origin, and a function that asks the Worker for it. */
export async function worker(t, settings, configuration = "workerd.capnp") {
  const environment = { ...process.env, TIDEGATE_DOMAIN: "web", TIDEGATE_DEADLINE_MS: "20000", ...settings };
  const arguments_ = ["serve", configuration, "--socket-addr=http=127.0.0.1:0", "--control-fd=3"];
  const stdio = ["ignore", "ignore", "ignore", "pipe"];
  const workerd = spawn("node_modules/.bin/workerd", arguments_, { env: environment, stdio });
  t.after(() => workerd.kill("SIGKILL"));
  const { port } = JSON.parse(await line(workerd.stdio[3], (text) => text.includes('"listen"')));
  const origin = await stub(t, answering(200, "hello"));
  const host = new URL(origin.url).host;
  return { origin, get: (headers, method = "GET") => send(port, method, { host, ...headers }) };
}

const agent = new Agent({ keepAlive: true });

/** `fetch` of Node does not send a Host header of the caller. */
function send(port, method, headers) {
  return new Promise((resolve, reject) => {
    const sent = request({ port, host: "127.0.0.1", method, headers, agent, signal: AbortSignal.timeout(20_000) }, (answer) => {
      let text = "";
      answer.on("data", (chunk) => (text += chunk));
      answer.on("end", () => resolve({ status: answer.statusCode, headers: answer.headers, text }));
    });
    sent.on("error", reject).end();
  });
}
