//! Regions on loopback, each with a Redis and nodes, and a proxy before each node's port for other regions.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use links::config::{Config, Listen};
use links::network::{Change, Network};
use links::proxy::Proxy;
use serde_json::{Value, json};

use crate::support::node::{Node, Response, tidegate};
use crate::support::servers::{SingleServer, free_ports, wait_for};

/// One region.
pub struct Region {
    pub name: &'static str,
    pub redis: SingleServer,
    /// A node that was killed is `None`.
    pub nodes: Vec<Option<Node>>,
}

/// The regions `us` and `eu`, and the links between them.
pub struct World {
    pub regions: Vec<Region>,
    /// Of each proxy. Each stands before one node, for the clients of the other region.
    networks: Vec<Arc<Network>>,
    _runtime: tokio::runtime::Runtime,
    _folder: tempfile::TempDir,
}

pub const NAMES: [&str; 2] = ["us", "eu"];

/// A rule file with a limit of 100 hits an hour in each of these domains, shared as `global` says.
pub fn rules(domains: &[(&str, Value)]) -> String {
    let limit = |global: &Value| {
        json!({ "name": "everywhere", "per": ["user"], "limit": 100, "window": "1h", "algorithm": "fixed_window",
            "consistency": "exact", "scope": "global", "global": global })
    };
    let domains = domains.iter().map(|(domain, global)| json!({ "domain": domain, "limits": [limit(global)] }));
    json!({ "version": 1, "domains": domains.collect::<Vec<_>>() }).to_string()
}

impl World {
    /// Starts two regions with this many nodes each, and waits until they hear each other.
    pub fn start(rules: &str, nodes: usize) -> Self {
        Self::start_with(rules, nodes, "500ms")
    }

    /// As [`Self::start`], with `gossip.partition_after`.
    pub fn start_with(rules: &str, nodes: usize, partition_after: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.yaml");
        std::fs::write(&file, rules).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let count = u16::try_from(nodes).unwrap();
        let first = free_ports(4 * count);
        // The ports of a region's nodes, and those of their proxies.
        let port = |region: u16, node: u16| first + 2 * (region * count + node);
        let mut networks = Vec::new();
        for (region, name) in (0..).zip(NAMES) {
            for node in 0..count {
                let address = |port: u16| format!("127.0.0.1:{port}").parse().unwrap();
                let other = NAMES[1 - usize::from(region)];
                let everybody = vec!["127.0.0.0/8".parse().unwrap()];
                let config = Config {
                    control: PathBuf::new(),
                    regions: BTreeMap::from([(other.to_owned(), everybody), (name.to_owned(), Vec::new())]),
                    links: Vec::new(),
                    listen: vec![Listen {
                        address: address(port(region, node) + 1),
                        region: name.to_owned(),
                        target: address(port(region, node)),
                    }],
                    buffer_bytes: 1 << 20,
                    max_connections: 100,
                    seed: 1,
                };
                let proxy = Arc::new(runtime.block_on(Proxy::bind(&config)).unwrap());
                networks.push(Arc::clone(&proxy.network));
                #[expect(clippy::disallowed_methods, reason = "it ends with the runtime")]
                runtime.spawn(proxy.run());
            }
        }
        let region = |(region, name): (u16, &'static str)| {
            let redis = SingleServer::start(&["--enable-debug-command", "yes"]);
            let peers: Vec<String> =
                (0..count).map(|node| format!("127.0.0.1:{}", port(1 - region, node) + 1)).collect();
            let peers = json!({ NAMES[1 - usize::from(region)]: peers });
            let start = |node: u16| {
                let settings = json!({
                    "region": name, "node": format!("{name}-{node}"), "workers": 1,
                    "listen": { "http": "127.0.0.1:0", "grpc": "127.0.0.1:0", "admin": "127.0.0.1:0",
                        "cluster": format!("127.0.0.1:{}", port(region, node)) },
                    "store": { "url": redis.url() }, "rules": { "file": file }, "peers": peers,
                    "gossip": { "interval": "20ms", "floor": 0, "partition_after": partition_after },
                });
                let config = folder.path().join(format!("{name}-{node}.yaml"));
                std::fs::write(&config, settings.to_string()).unwrap();
                Some(Node::start(tidegate(&["serve", "--log-format", "json", "--config", config.to_str().unwrap()])))
            };
            let nodes = (0..count).map(start).collect();
            Region { name, redis, nodes }
        };
        let regions = (0..).zip(NAMES).map(region).collect();
        let world = Self { regions, networks, _runtime: runtime, _folder: folder };
        world.wait_until_partitioned(false);
        world
    }

    /// A running node of a region.
    pub fn node(&self, region: usize) -> &Node {
        self.regions[region].nodes.iter().flatten().next().unwrap()
    }

    /// Asks for hits of a user.
    pub fn check(&self, region: usize, domain: &str, hits: u64) -> Response {
        self.node(region).check(&body(domain, hits))
    }

    /// Asks for one hit after the other until one is denied. Returns how many were admitted.
    pub fn spend(&self, region: usize, domain: &str) -> u64 {
        (0..).find(|_| !allowed(&self.check(region, domain, 1))).unwrap()
    }

    /// The hits that are left in a region, as its store says.
    pub fn remaining(&self, region: usize, domain: &str) -> u64 {
        self.check(region, domain, 0).json()["limits"][0]["remaining"].as_u64().unwrap()
    }

    /// Waits until a region shows that this many hits are left.
    pub fn wait_for_remaining(&self, region: usize, domain: &str, hits: u64) {
        wait_for("the count of the other region", || (self.remaining(region, domain) == hits).then_some(()));
    }

    /// Cuts or heals the links from one region to the other.
    pub fn cut(&self, from: &str, to: &str, cut: bool) {
        for network in &self.networks {
            let change = Change { from: from.to_owned(), to: to.to_owned(), cut: Some(cut), ..Change::default() };
            network.change(&change).unwrap();
        }
    }

    /// Waits until every node says that the other region is partitioned, or that it is not.
    pub fn wait_until_partitioned(&self, partitioned: bool) {
        let expected = if partitioned { 1.0 } else { 0.0 };
        for region in &self.regions {
            let name = format!("tidegate_region_partitioned{{region=\"{}\"}} ", other(region.name));
            let heard = format!("tidegate_region_heard_age_seconds{{region=\"{}\"}} ", other(region.name));
            for node in region.nodes.iter().flatten() {
                wait_for("the state of the links", || {
                    let metrics = node.get("/metrics").body;
                    let value = |name: &str| -> Option<f64> {
                        metrics.lines().find_map(|line| line.strip_prefix(name)?.parse().ok())
                    };
                    let in_touch = partitioned || value(&heard).is_some_and(|age| age > 0.0);
                    (in_touch && value(&name) == Some(expected)).then_some(())
                });
            }
        }
    }
}

/// The name of the other region.
pub fn other(name: &str) -> &'static str {
    if name == NAMES[0] { NAMES[1] } else { NAMES[0] }
}

/// The body of a check.
pub fn body(domain: &str, hits: u64) -> String {
    json!({ "domain": domain, "attributes": { "user": "u" }, "hits": hits }).to_string()
}

/// True if a check was admitted.
pub fn allowed(answer: &Response) -> bool {
    answer.json()["allowed"] == true
}
