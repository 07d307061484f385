# Runs the Worker in workerd on this machine, with the settings from the environment: `npm start`.
using Workerd = import "/workerd/workerd.capnp";

const config :Workerd.Config = (
  services = [
    (name = "worker", worker = .worker),
    # The nodes and the origin are on this machine or in a private network.
    (name = "internet", network = (allow = ["public", "private"])),
  ],
  sockets = [(name = "http", address = "127.0.0.1:8787", http = (), service = "worker")],
);

const worker :Workerd.Worker = (
  modules = [(name = "worker.js", esModule = embed "dist/worker.js")],
  compatibilityDate = "2025-06-01",
  bindings = [
    (name = "TIDEGATE_NODES", fromEnvironment = "TIDEGATE_NODES"),
    (name = "TIDEGATE_DOMAIN", fromEnvironment = "TIDEGATE_DOMAIN"),
    (name = "TIDEGATE_FAIL_MODE", fromEnvironment = "TIDEGATE_FAIL_MODE"),
    (name = "TIDEGATE_DEADLINE_MS", fromEnvironment = "TIDEGATE_DEADLINE_MS"),
    (name = "TIDEGATE_TOKEN", fromEnvironment = "TIDEGATE_TOKEN"),
  ],
);
