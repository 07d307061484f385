/** The servers of the tests: real nodes, and stand-ins before them that record and fail. */
import { spawn } from "node:child_process";
import type { ChildProcess } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:http";
import type { IncomingHttpHeaders, IncomingMessage, RequestListener, ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import type { Readable } from "node:stream";
import type { TestContext } from "node:test";
import { setTimeout as sleep } from "node:timers/promises";

import { Client } from "@tidegate/client";
import type { CheckOptions, Config, Decision } from "@tidegate/client";

/** Bounds every wait of a test, in milliseconds. */
export const PATIENCE = 20_000;

const RULES = `
version: 1
domains:
  - domain: api
    limits:
      - { name: five-an-hour, match: { kind: slow }, per: [user], limit: 5, window: 1h, algorithm: fixed_window }
      - { name: ten-an-hour, match: { kind: many }, per: [user], limit: 10, window: 1h, algorithm: fixed_window }
      - { name: two-a-second, match: { kind: fast }, per: [user], limit: 2, window: 1s, algorithm: token_bucket }
`;

export interface Node {
  url: string;
  process: ChildProcess;
}

/** Runs `tidegate dev` until the test ends, and waits until it is ready. */
export async function node(t: TestContext, rules: string | undefined = RULES): Promise<Node> {
  const folder = mkdtempSync(join(tmpdir(), "tidegate-"));
  const options = ["dev", "--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--log-format", "json"];
  if (rules) {
    writeFileSync(join(folder, "rules.yaml"), rules);
    options.push("--rules", join(folder, "rules.yaml"));
  }
  const process_ = spawn(process.env["TIDEGATE_PROGRAM"] ?? "tidegate", options, {
    stdio: ["ignore", "ignore", "pipe"],
  });
  t.after(() => {
    process_.kill("SIGKILL");
    rmSync(folder, { recursive: true });
  });
  const serving = await line(process_.stderr, (text) => text.includes('"serving"'));
  const url = `http://${(JSON.parse(serving) as { http: string }).http}`;
  await until(async () => (await fetch(`${url}/ready`)).ok);
  return { url, process: process_ };
}

/** Returns the first line that `fits`, and reads on so that the writer never waits. */
export async function line(from: Readable, fits: (text: string) => boolean): Promise<string> {
  const lines = createInterface(from);
  return new Promise((resolve, reject) => {
    lines.on("line", (text) => fits(text) && resolve(text));
    lines.on("close", () => reject(new Error("the program ended before it listened")));
  });
}

export async function until(condition: () => Promise<boolean>): Promise<void> {
  const end = performance.now() + PATIENCE;
  while (!(await condition())) {
    if (performance.now() > end) throw new Error("the condition does not come true");
    await sleep(10);
  }
}

export interface Stub {
  url: string;
  /** The headers of each request. */
  seen: IncomingHttpHeaders[];
}

/** Runs a server until the test ends. */
export async function stub(t: TestContext, answer: RequestListener): Promise<Stub> {
  const seen: IncomingHttpHeaders[] = [];
  const server = createServer((request, response) => {
    seen.push(request.headers);
    answer(request, response);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  t.after(() => {
    server.close();
    server.closeAllConnections();
  });
  return { url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`, seen };
}

/** Passes requests on to a node. */
export function passingOn({ url }: Node, delayMs = 0): RequestListener {
  const pass = async (request: IncomingMessage, response: ServerResponse) => {
    const chunks: Buffer[] = [];
    for await (const chunk of request) chunks.push(chunk as Buffer);
    await sleep(delayMs);
    const names = ["content-type", "x-request-id", "traceparent"];
    const headers = names.flatMap((name) => (request.headers[name] ? [[name, String(request.headers[name])]] : []));
    const answer = await fetch(url + request.url, {
      method: "POST",
      body: Buffer.concat(chunks),
      headers: headers as [string, string][],
    });
    response.writeHead(answer.status, Object.fromEntries(answer.headers));
    response.end(await answer.text());
  };
  return (request, response) => void pass(request, response);
}

/** Passes requests on to a node. Answers nothing while it has more than some requests at once. */
export function overloaded(node: Node, most: number): RequestListener {
  const passOn = passingOn(node, 20);
  let inFlight = 0;
  return (request, response) => {
    inFlight++;
    // The client may send its next request when it has the answer.
    const { writeHead } = response;
    response.writeHead = (...head: unknown[]) => {
      inFlight--;
      return Reflect.apply(writeHead, response, head);
    };
    if (inFlight <= most) return passOn(request, response);
    response.on("close", () => inFlight--);
  };
}

export function answering(status: number, text = "{}", headers: Record<string, string> = {}): RequestListener {
  return (_, response) => response.writeHead(status, headers).end(text);
}

/** Answers nothing. */
export const silent: RequestListener = () => {};

/** Sends an answer one byte at a time, for 20 seconds. */
export const dripping: RequestListener = (_, response) => {
  let sent = 0;
  const timer = setInterval(() => (sent++ < 2000 ? response.write(" ") : response.end()), 10);
  response.on("close", () => clearInterval(timer));
};

/** Returns the URL of a port where nothing listens. */
export async function dead(): Promise<string> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const { port } = server.address() as AddressInfo;
  await new Promise((resolve) => server.close(resolve));
  return `http://127.0.0.1:${port}`;
}

export function client(config: Config): Client {
  return new Client({ deadlineMs: PATIENCE, ...config });
}

export function slow(asked: Client, user = "u1", options: CheckOptions = {}): Promise<Decision> {
  return asked.check("api", { kind: "slow", user }, options);
}

/** Asks until a check is denied. Returns how many were allowed, and the denial. */
export async function useUp(asked: Client, user = "u1", kind = "slow"): Promise<[number, Decision]> {
  for (let allowed = 0; allowed < 100; allowed++) {
    const decision = await asked.check("api", { kind, user });
    if (!decision.allowed) return [allowed, decision];
  }
  throw new Error("expected a denial");
}
