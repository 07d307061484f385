//! The nodes of a region. They run through all drills of a test.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::clients::{DrillClients, MODES};
use crate::node::{Node, wait_for};
use crate::servers::free_ports;
use crate::table::Table;

/// Number of cores of a node.
pub const CORES: usize = 2;
/// Number of nodes of a region.
pub const NODES: usize = 2;

/// The nodes of a region and the results of its drills.
pub struct Region {
    pub nodes: Vec<Node>,
    /// The first port of the nodes. Each node has two.
    first_port: u16,
    rules: PathBuf,
    url: String,
    settings: Vec<(String, String)>,
    pub rows: Table,
    pub runtime: Runtime,
    _folder: TempDir,
}

impl Region {
    /// Starts nodes whose counters are in the Redis at `url`. Waits until they know each other and reach the store.
    pub fn start(url: &str, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rules = folder.path().join("rules.yaml");
        let limits: String = MODES.iter().map(|mode| format!("      - {{ {} }}\n", mode.rule())).collect();
        std::fs::write(&rules, format!("version: 1\ndomains:\n  - domain: d\n    limits:\n{limits}")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut region = Self {
            nodes: Vec::new(),
            first_port: free_ports(2 * NODES as u16),
            rules,
            url: url.to_owned(),
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            rows: Table(Vec::new()),
            runtime,
            _folder: folder,
        };
        region.nodes = (0..NODES).map(|index| region.start_node(index)).collect();
        for index in 0..NODES {
            region.wait_for_node(index);
        }
        region
    }

    /// Starts the node with this index and waits until it is ready.
    pub fn start_node(&self, index: usize) -> Node {
        let port = |listener: usize| self.first_port + u16::try_from(2 * index + listener).unwrap();
        self.start_node_at(&format!("n{index}"), [port(0), port(1)])
    }

    /// Starts a node that listens at these ports for HTTP and gRPC. Waits until it is ready.
    pub fn start_node_at(&self, name: &str, ports: [u16; 2]) -> Node {
        let [http, grpc] = ports.map(|port| format!("127.0.0.1:{port}"));
        let (cores, holders) = (CORES.to_string(), (CORES * NODES).to_string());
        let mut environment = vec![
            ("TIDEGATE_NODE", name),
            ("TIDEGATE_WORKERS", &cores),
            ("TIDEGATE_STORE__LEASE", "200ms"),
            ("TIDEGATE_STORE__MIN_HOLDERS", &holders),
            ("TIDEGATE_LIMITS__DRAIN", "3s"),
            ("TIDEGATE_LISTEN__HTTP", &http),
            ("TIDEGATE_LISTEN__GRPC", &grpc),
        ];
        environment.extend(self.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        Node::serve(&self.rules, &self.url, &environment)
    }

    /// Waits until the node with this index knows the others and reaches the store.
    pub fn wait_for_node(&self, index: usize) {
        let (node, holders) = (&self.nodes[index], (CORES * NODES) as f64);
        wait_for("the nodes to know each other", || (node.metric("tidegate_holders ") >= holders).then_some(()));
        wait_for("the node to reach the store", || (node.get("/ready").json()["store"] == "ok").then_some(()));
    }

    /// Returns clients of all nodes. Their users are new to the region and get new names every `rename_every`.
    pub fn clients(&self, rename_every: Option<Duration>) -> DrillClients {
        let addresses: Vec<String> = self.nodes.iter().map(|node| node.grpc.clone()).collect();
        DrillClients::new(&self.runtime, &format!("r{}", self.rows.0.len()), &addresses, rename_every)
    }

    /// Ends the drills and prints the table.
    pub fn print_report(self, title: &str) {
        println!("\n### {title}\n\n{}", self.rows);
    }
}
