//! The nodes of a region; they live through all drills.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::crowd::{Crowd, MODES};
use crate::node::{Node, wait_for};
use crate::servers::free_ports;
use crate::table::Table;

/// Cores of a node.
pub const CORES: usize = 2;
/// Nodes of a region.
pub const NODES: usize = 2;

/// Nodes, and what drills showed of them.
pub struct Region {
    pub nodes: Vec<Node>,
    ports: u16,
    rules: PathBuf,
    url: String,
    settings: Vec<(String, String)>,
    pub rows: Table,
    pub runtime: Runtime,
    _folder: TempDir,
}

impl Region {
    /// Nodes whose counters are in the Redis at `url`.
    pub fn start(url: &str, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rules = folder.path().join("rules.yaml");
        let limits: String = MODES.iter().map(|mode| format!("      - {{ {} }}\n", mode.rule())).collect();
        std::fs::write(&rules, format!("version: 1\ndomains:\n  - domain: d\n    limits:\n{limits}")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut region = Self {
            nodes: Vec::new(),
            ports: free_ports(2 * NODES as u16),
            rules,
            url: url.to_owned(),
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            rows: Table(Vec::new()),
            runtime,
            _folder: folder,
        };
        region.nodes = (0..NODES).map(|at| region.node(at)).collect();
        for at in 0..NODES {
            region.await_node(at);
        }
        region
    }

    /// Starts the node of this number, and waits until it is ready.
    pub fn node(&self, at: usize) -> Node {
        let port = |face: usize| self.ports + u16::try_from(2 * at + face).unwrap();
        self.node_at(&format!("n{at}"), [port(0), port(1)])
    }

    /// Starts a node that listens at these ports, for HTTP and gRPC.
    pub fn node_at(&self, name: &str, ports: [u16; 2]) -> Node {
        let [http, grpc] = ports.map(|port| format!("127.0.0.1:{port}"));
        let (cores, holders) = (CORES.to_string(), (CORES * NODES).to_string());
        let mut all = vec![
            ("TIDEGATE_NODE", name),
            ("TIDEGATE_WORKERS", &cores),
            ("TIDEGATE_STORE__LEASE", "200ms"),
            ("TIDEGATE_STORE__MIN_HOLDERS", &holders),
            ("TIDEGATE_LIMITS__DRAIN", "3s"),
            ("TIDEGATE_LISTEN__HTTP", &http),
            ("TIDEGATE_LISTEN__GRPC", &grpc),
        ];
        all.extend(self.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        Node::serve(&self.rules, &self.url, &all)
    }

    /// Waits until it knows the others and reaches the store.
    pub fn await_node(&self, at: usize) {
        let (node, holders) = (&self.nodes[at], (CORES * NODES) as f64);
        wait_for("nodes that know each other", || (node.metric("tidegate_holders ") >= holders).then_some(()));
        wait_for("a store that is reached", || (node.get("/ready").json()["store"] == "ok").then_some(()));
    }

    /// Clients of all nodes, whose users are their own and have new names every `renewed`.
    pub fn crowd(&self, renewed: Option<Duration>) -> Crowd {
        let addresses: Vec<String> = self.nodes.iter().map(|node| node.grpc.clone()).collect();
        Crowd::new(&self.runtime, &format!("r{}", self.rows.0.len()), &addresses, renewed)
    }

    /// Ends the drills: the table is printed.
    pub fn report(self, title: &str) {
        println!("\n### {title}\n\n{}", self.rows);
    }
}
