// Stands for Tyk: runs the plugin for one request, and prints what it answers instead of the application, as JSON.
// Usage: node tyk.js PLUGIN SETTINGS REQUEST
const { spawnSync } = require("node:child_process");
const { readFileSync } = require("node:fs");
const vm = require("node:vm");

// A request of Tyk's engine. It is undefined if there is no answer, and has no deadline: Tyk ends the plugin and answers
// 500.
function TykMakeHttpRequest(text) {
  const { Method, Domain, Resource, Headers } = JSON.parse(text);
  const lines = Object.entries(Headers).flatMap(([name, value]) => ["-H", `${name}: ${value}`]);
  const options = ["-s", "-i", "-m", "2", "-X", Method, ...lines, Domain + Resource];
  const curl = spawnSync("curl", options, { encoding: "utf8" });
  const timedOut = 28;
  if (curl.status === timedOut) {
    console.log(JSON.stringify({ ResponseCode: 500 }));
    process.exit();
  }
  if (curl.status !== 0) return undefined;
  const [head, Body] = curl.stdout.split("\r\n\r\n");
  const [first, ...rest] = head.split("\r\n");
  const answered = Object.fromEntries(rest.map((line) => line.split(": ")).map(([name, value]) => [name, [value]]));
  return JSON.stringify({ Code: Number(first.split(" ")[1]), Body, Headers: answered });
}

let plugin;
function NewMiddleware() {
  this.NewProcessRequest = (process) => { plugin = process; };
  this.ReturnData = (request) => request;
}

const [, , path, settings, request] = process.argv;
const TykJS = { TykMiddleware: { NewMiddleware } };
vm.runInNewContext(readFileSync(path, "utf8"), { TykJS, TykMakeHttpRequest, log: console.error });
const asked = { ReturnOverrides: { ResponseCode: 0 }, ...JSON.parse(request) };
console.log(JSON.stringify(plugin(asked, {}, { config_data: JSON.parse(settings) }).ReturnOverrides));
