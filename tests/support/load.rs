//! Clients that send checks to many nodes at once and record each check, its answer, and the times.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::tidegate::v1::CheckRequest;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use tonic::transport::{Channel, Endpoint};

use super::node::{Node, wait_for};

/// One check and its answer. Times are in microseconds since the epoch.
#[derive(Clone, Debug)]
pub struct CheckRecord {
    pub user: u32,
    pub sent_at: u64,
    pub answered_at: u64,
    /// `None` if there was no decision.
    pub allowed: Option<bool>,
    pub degraded: bool,
}

#[expect(clippy::disallowed_methods, reason = "the clock of the clients")]
pub fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

pub fn request(user: u32) -> CheckRequest {
    let attributes = [("user".to_owned(), format!("u{user}"))].into();
    CheckRequest { domain: "d".to_owned(), attributes, ..CheckRequest::default() }
}

/// Opens four connections to each node, so that every core is likely to have some.
pub async fn connect(nodes: &[Node]) -> Vec<RateLimitServiceClient<Channel>> {
    let mut clients = Vec::new();
    for _ in 0..4 {
        for node in nodes {
            let endpoint = Endpoint::from_shared(format!("http://{}", node.grpc)).unwrap();
            clients.push(RateLimitServiceClient::new(endpoint.connect().await.unwrap()));
        }
    }
    clients
}

/// The load that clients put on nodes.
#[derive(Clone, Copy)]
pub struct Load {
    /// Maximum number of checks of all clients together.
    pub max_checks: u64,
    /// The load ends after this time.
    pub max_time: Duration,
    /// Number of clients. Each has one check in flight.
    pub clients: usize,
    /// Number of users. The checks are for each user in turn.
    pub users: u32,
}

/// Sends checks to all nodes at once and returns their records. `stop` ends the load early.
#[expect(clippy::disallowed_methods, reason = "the function awaits every client")]
pub async fn run_load(nodes: &[Node], load: Load, stop: &Arc<AtomicBool>) -> Vec<CheckRecord> {
    let connections = connect(nodes).await;
    let number = Arc::new(AtomicU64::new(0));
    let end = now() + u64::try_from(load.max_time.as_micros()).unwrap();
    let start_client = |index: usize| {
        let mut client = connections[index % connections.len()].clone();
        let (number, stop) = (Arc::clone(&number), Arc::clone(stop));
        tokio::spawn(async move {
            let mut records = Vec::new();
            loop {
                let next = number.fetch_add(1, Ordering::Relaxed);
                let sent_at = now();
                if next >= load.max_checks || sent_at >= end || stop.load(Ordering::Relaxed) {
                    return records;
                }
                let user = u32::try_from(next % u64::from(load.users)).unwrap();
                let answer = client.check(request(user)).await.ok().map(tonic::Response::into_inner);
                let (allowed, degraded) = (answer.as_ref().map(|a| a.allowed), answer.is_some_and(|a| a.degraded));
                records.push(CheckRecord { user, sent_at, answered_at: now(), allowed, degraded });
            }
        })
    };
    let clients: Vec<_> = (0..load.clients).map(start_client).collect();
    let mut records = Vec::new();
    for client in clients {
        records.extend(client.await.unwrap());
    }
    records
}

/// Returns the number of admitted checks.
pub fn count_admitted(records: &[CheckRecord]) -> usize {
    records.iter().filter(|record| record.allowed == Some(true)).count()
}

/// Returns the maximum number of admitted checks that were both sent and answered within an interval of `length`
/// microseconds.
pub fn max_admitted_within(records: &[CheckRecord], length: u64) -> usize {
    let mut admitted: Vec<(u64, u64)> = records
        .iter()
        .filter(|record| record.allowed == Some(true))
        .map(|record| (record.sent_at, record.answered_at))
        .collect();
    admitted.sort_unstable();
    let within = |from: u64| {
        admitted.iter().filter(|(sent_at, answered_at)| *sent_at >= from && *answered_at <= from + length).count()
    };
    admitted.iter().map(|(sent_at, _)| within(*sent_at)).max().unwrap_or(0)
}

/// A rule file in a temporary folder.
pub struct RuleFile(tempfile::TempDir);

impl RuleFile {
    /// Writes a rule file with one domain `d` and these limits. Each limit is one line of YAML.
    pub fn new(limits: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let limits: String = limits.iter().map(|limit| format!("      - {{ {limit} }}\n")).collect();
        let text = format!("version: 1\ndomains:\n  - domain: d\n    limits:\n{limits}");
        std::fs::write(folder.path().join("rules.yaml"), text).unwrap();
        Self(folder)
    }

    pub fn path(&self) -> std::path::PathBuf {
        self.0.path().join("rules.yaml")
    }

    /// Starts `count` nodes in a new region. Waits until they know each other and reach the store.
    pub fn start_nodes(&self, count: usize, url: &str, settings: &[(&str, &str)]) -> Vec<Node> {
        let path = self.path();
        static REGIONS: AtomicU32 = AtomicU32::new(0);
        // A new region for each case: the store remembers the members of an earlier case for a while.
        let region = format!("r{}", REGIONS.fetch_add(1, Ordering::Relaxed));
        let names: Vec<String> = (0..count).map(|index| format!("n{index}")).collect();
        let start = |name: &String| {
            let mut environment =
                vec![("TIDEGATE_REGION", region.as_str()), ("TIDEGATE_NODE", name), ("TIDEGATE_WORKERS", "2")];
            // On a shared machine a process may not run for longer than the production deadline.
            environment.push(("TIDEGATE_STORE__DEADLINE", "2s"));
            environment.extend(settings);
            Node::serve(&path, url, &environment)
        };
        let nodes: Vec<Node> = names.iter().map(start).collect();
        let holders = 2.0 * count as f64;
        for node in &nodes {
            wait_for("the nodes to know each other", || (node.metric("tidegate_holders ") == holders).then_some(()));
            wait_for("the node to reach the store", || (node.get("/ready").json()["store"] == "ok").then_some(()));
        }
        nodes
    }
}
