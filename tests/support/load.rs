//! Clients that ask many nodes at once, and note what they asked and were answered, and when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::tidegate::v1::CheckRequest;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use tonic::transport::{Channel, Endpoint};

use super::node::{Node, wait_for};

/// One check, with what became of it; instants in microseconds since the epoch.
#[derive(Clone, Debug)]
pub struct Asked {
    pub user: u32,
    pub asked: u64,
    pub answered: u64,
    /// `None`: there was no decision.
    pub allowed: Option<bool>,
    pub degraded: bool,
}

#[expect(clippy::disallowed_methods, reason = "a client's own clock")]
pub fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

pub fn request(user: u32) -> CheckRequest {
    let attributes = [("user".to_owned(), format!("u{user}"))].into();
    CheckRequest { domain: "d".to_owned(), attributes, ..CheckRequest::default() }
}

/// One connection to each core of each node, as far as the kernel spreads them.
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

/// How a crowd asks.
#[derive(Clone, Copy)]
pub struct Crowd {
    /// Checks in all, at most.
    pub checks: u64,
    /// Longest that it asks.
    pub time: Duration,
    /// Clients that each have one check under way.
    pub clients: usize,
    /// Users that are asked for in turn.
    pub users: u32,
}

/// Asks all nodes at once; `stop` ends it early.
#[expect(clippy::disallowed_methods, reason = "every client is waited for")]
pub async fn ask_all(nodes: &[Node], crowd: Crowd, stop: &Arc<AtomicBool>) -> Vec<Asked> {
    let connections = connect(nodes).await;
    let number = Arc::new(AtomicU64::new(0));
    let ends = now() + u64::try_from(crowd.time.as_micros()).unwrap();
    let client = |at: usize| {
        let mut client = connections[at % connections.len()].clone();
        let (number, stop) = (Arc::clone(&number), Arc::clone(stop));
        tokio::spawn(async move {
            let mut all = Vec::new();
            loop {
                let next = number.fetch_add(1, Ordering::Relaxed);
                let asked = now();
                if next >= crowd.checks || asked >= ends || stop.load(Ordering::Relaxed) {
                    return all;
                }
                let user = u32::try_from(next % u64::from(crowd.users)).unwrap();
                let answer = client.check(request(user)).await.ok().map(tonic::Response::into_inner);
                let (allowed, degraded) = (answer.as_ref().map(|a| a.allowed), answer.is_some_and(|a| a.degraded));
                all.push(Asked { user, asked, answered: now(), allowed, degraded });
            }
        })
    };
    let clients: Vec<_> = (0..crowd.clients).map(client).collect();
    let mut all = Vec::new();
    for client in clients {
        all.extend(client.await.unwrap());
    }
    all
}

pub fn admitted(asked: &[Asked]) -> usize {
    asked.iter().filter(|a| a.allowed == Some(true)).count()
}

/// The most admissions that lie wholly within any interval of `length` microseconds.
pub fn most_within(asked: &[Asked], length: u64) -> usize {
    let mut admitted: Vec<(u64, u64)> =
        asked.iter().filter(|a| a.allowed == Some(true)).map(|a| (a.asked, a.answered)).collect();
    admitted.sort_unstable();
    let within = |from: u64| admitted.iter().filter(|(a, b)| *a >= from && *b <= from + length).count();
    admitted.iter().map(|(asked, _)| within(*asked)).max().unwrap_or(0)
}

/// A rule file.
pub struct Rules(tempfile::TempDir);

impl Rules {
    /// A domain `d` with these limits, each a line of YAML.
    pub fn new(limits: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let limits: String = limits.iter().map(|limit| format!("      - {{ {limit} }}\n")).collect();
        let text = format!("version: 1\ndomains:\n  - domain: d\n    limits:\n{limits}");
        std::fs::write(folder.path().join("rules.yaml"), text).unwrap();
        Self(folder)
    }

    /// So many nodes of a region of their own, which know each other.
    pub fn nodes(&self, count: usize, url: &str, settings: &[(&str, &str)]) -> Vec<Node> {
        let path = self.0.path().join("rules.yaml");
        static REGIONS: AtomicU32 = AtomicU32::new(0);
        // Nodes of an earlier case are remembered for a while.
        let region = format!("r{}", REGIONS.fetch_add(1, Ordering::Relaxed));
        let names: Vec<String> = (0..count).map(|at| format!("n{at}")).collect();
        let start = |name: &String| {
            let mut all =
                vec![("TIDEGATE_REGION", region.as_str()), ("TIDEGATE_NODE", name), ("TIDEGATE_WORKERS", "2")];
            // A shared machine may not run a process for longer than a node in production waits.
            all.push(("TIDEGATE_STORE__DEADLINE", "2s"));
            all.extend(settings);
            Node::serve(&path, url, &all)
        };
        let nodes: Vec<Node> = names.iter().map(start).collect();
        let holders = 2.0 * count as f64;
        for node in &nodes {
            wait_for("nodes that know each other", || (node.metric("tidegate_holders ") == holders).then_some(()));
            wait_for("a store that is reached", || (node.get("/ready").json()["store"] == "ok").then_some(()));
        }
        nodes
    }
}
