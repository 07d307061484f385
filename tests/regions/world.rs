//! Regions on loopback, each with a Redis and nodes, and a proxy for each pair of regions and node.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use links::config::{Config, Listen};
use links::network::{Change, Network};
use links::proxy::Proxy;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::support::node::{Node, Response, tidegate};
use crate::support::servers::{SingleServer, free_ports, wait_for};

pub const NAMES: [&str; 3] = ["us", "eu", "ap"];

/// How the regions are set up.
pub struct Setup<'a> {
    pub rules: String,
    pub regions: usize,
    /// The nodes of each region.
    pub nodes: usize,
    pub interval: &'a str,
    pub floor: f64,
    pub partition_after: &'a str,
    /// The one-way delay between two regions in milliseconds.
    pub delay_ms: fn(&str, &str) -> u64,
    /// All regions count in the Redis of the first, and do not talk to each other.
    pub one_store: bool,
}

impl Setup<'_> {
    /// Two regions with a node each, which talk as fast as they can.
    pub fn new(rules: String) -> Self {
        Self {
            rules,
            regions: 2,
            nodes: 1,
            interval: "20ms",
            floor: 0.0,
            partition_after: "500ms",
            delay_ms: |_, _| 0,
            one_store: false,
        }
    }
}

/// One region.
pub struct Region {
    pub name: &'static str,
    pub redis: SingleServer,
    /// A node that was killed is `None`.
    pub nodes: Vec<Option<Node>>,
}

/// The regions and the links between them.
pub struct World {
    pub regions: Vec<Region>,
    /// Of each proxy. Each stands before one server, for the clients of one region.
    networks: Vec<Arc<Network>>,
    runtime: Runtime,
    _folder: tempfile::TempDir,
}

/// A rule file with a limit of 100 hits an hour in each of these domains, shared as `global` says.
pub fn rules(domains: &[(&str, Value)]) -> String {
    let limit = |global: &Value| {
        json!({ "name": "everywhere", "per": ["user"], "limit": 100, "window": "1h", "algorithm": "fixed_window",
            "consistency": "exact", "scope": "global", "global": global })
    };
    let domains = domains.iter().map(|(domain, global)| json!({ "domain": domain, "limits": [limit(global)] }));
    json!({ "version": 1, "domains": domains.collect::<Vec<_>>() }).to_string()
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

impl World {
    /// Starts the regions, and waits until they hear each other.
    pub fn start(setup: &Setup<'_>) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.yaml");
        std::fs::write(&file, &setup.rules).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let names = &NAMES[..setup.regions];
        let (regions, nodes) = (u16::try_from(setup.regions).unwrap(), u16::try_from(setup.nodes).unwrap());
        let first = free_ports(regions * nodes);
        let listens = |region: u16, node: u16| first + region * nodes + node;
        let mut networks = Vec::new();
        let mut proxy = |from: &str, to: &str, target: u16| {
            let (proxy, network) = start_proxy(&runtime, setup, (from, to), target);
            networks.push(network);
            proxy
        };
        let redis: Vec<SingleServer> =
            names.iter().map(|_| SingleServer::start(&["--enable-debug-command", "yes"])).collect();
        let mut running: Vec<Vec<Option<Node>>> = Vec::new();
        for (region, name) in (0..).zip(names) {
            let mut peers: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            for (other, to) in (0..).zip(names).filter(|(other, _)| *other != region && !setup.one_store) {
                let addresses = (0..nodes).map(|node| proxy(name, to, listens(other, node)).to_string());
                peers.insert(to, addresses.collect());
            }
            let own = redis[usize::from(region)].server.port;
            let weights = if setup.one_store {
                json!({})
            } else {
                names
                    .iter()
                    .map(|name| ((*name).to_owned(), json!({ "weight": 1 })))
                    .collect::<serde_json::Map<_, _>>()
                    .into()
            };
            let store = if setup.one_store { proxy(name, names[0], redis[0].server.port).port() } else { own };
            let start = |node: u16| {
                let settings = json!({
                    "region": if setup.one_store { names[0] } else { name }, "node": format!("{name}-{node}"),
                    "workers": 1,
                    "listen": { "http": "127.0.0.1:0", "grpc": "127.0.0.1:0", "admin": "127.0.0.1:0",
                        "cluster": address(listens(region, node)) },
                    // The longest way to one store and back takes 300 ms.
                    "store": { "url": format!("redis://127.0.0.1:{store}"),
                        "deadline": if setup.one_store { "2s" } else { "100ms" } },
                    "rules": { "file": file }, "peers": peers,
                    "regions": weights,
                    "gossip": { "interval": setup.interval, "floor": setup.floor, "partition_after": setup.partition_after },
                });
                let config = folder.path().join(format!("{name}-{node}.yaml"));
                std::fs::write(&config, settings.to_string()).unwrap();
                Some(Node::start(tidegate(&["serve", "--log-format", "json", "--config", config.to_str().unwrap()])))
            };
            running.push((0..nodes).map(start).collect());
        }
        let regions = names.iter().zip(redis).zip(running);
        let regions = regions.map(|((name, redis), nodes)| Region { name, redis, nodes }).collect();
        let world = Self { regions, networks, runtime, _folder: folder };
        if !setup.one_store {
            world.wait_until_partitioned(false);
        }
        world
    }

    /// A running node of a region.
    pub fn node(&self, region: usize) -> &Node {
        self.regions[region].nodes.iter().flatten().next().unwrap()
    }

    /// Asks for hits of a user.
    pub fn check(&self, region: usize, domain: &str, hits: u64) -> Response {
        self.node(region).check(&body(domain, "u", hits))
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

    /// Cuts or heals the links from one region to another.
    pub fn cut(&self, from: &str, to: &str, cut: bool) {
        let change = Change { from: from.to_owned(), to: to.to_owned(), cut: Some(cut), ..Change::default() };
        // A proxy knows the two regions that it stands between.
        let changed = self.networks.iter().filter(|network| network.change(&change).is_ok()).count();
        assert!(changed > 0);
        // The proxies notice it on their own runtime.
        self.runtime.block_on(tokio::task::yield_now());
    }

    /// Waits until every node says that all other regions are partitioned, or that none is.
    pub fn wait_until_partitioned(&self, partitioned: bool) {
        let expected = if partitioned { 1.0 } else { 0.0 };
        for region in &self.regions {
            for other in self.regions.iter().filter(|other| other.name != region.name) {
                let name = format!("tidegate_region_partitioned{{region=\"{}\"}} ", other.name);
                let heard = format!("tidegate_region_heard_age_seconds{{region=\"{}\"}} ", other.name);
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
}

/// Starts a proxy before a server of the region `to`, for the clients of `from`. Returns where they reach it.
fn start_proxy(
    runtime: &Runtime,
    setup: &Setup<'_>,
    (from, to): (&str, &str),
    target: u16,
) -> (SocketAddr, Arc<Network>) {
    let change = |from: &str, to: &str| {
        let delay_ms = Some((setup.delay_ms)(from, to) as f64);
        Change { from: from.to_owned(), to: to.to_owned(), both: true, delay_ms, ..Change::default() }
    };
    let everybody = vec!["127.0.0.0/8".parse().unwrap()];
    let mut regions = BTreeMap::from([(to.to_owned(), Vec::new())]);
    regions.insert(from.to_owned(), everybody);
    let config = Config {
        control: PathBuf::new(),
        regions,
        links: if from == to { Vec::new() } else { vec![change(from, to)] },
        listen: vec![Listen { address: address(0), region: to.to_owned(), target: address(target) }],
        buffer_bytes: 1 << 20,
        max_connections: 100,
        seed: 1,
    };
    let proxy = Arc::new(runtime.block_on(Proxy::bind(&config)).unwrap());
    let (network, at) = (Arc::clone(&proxy.network), proxy.addresses().unwrap()[0]);
    runtime.spawn(proxy.run());
    (at, network)
}

/// The body of a check.
pub fn body(domain: &str, user: &str, hits: u64) -> String {
    json!({ "domain": domain, "attributes": { "user": user }, "hits": hits }).to_string()
}

/// True if a check was admitted.
pub fn allowed(answer: &Response) -> bool {
    answer.json()["allowed"] == true
}
