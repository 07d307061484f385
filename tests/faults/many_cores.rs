//! An outage in which more cores admit hits than a cell can keep apart. Each debt is charged once.

use std::time::Duration;

use futures_util::future::join_all;
use proto::tidegate::v1::CheckRequest;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::clients::now;
use crate::node::{Node, wait_for};
use crate::servers::SingleServer;

const NODES: usize = 3;
/// Number of cores of a node.
const CORES: usize = 12;
/// The number of debts that a cell kept apart when this test was written.
const MAX_CELL_DEBTS: usize = 32;
const LIMIT: u64 = 100_000;
/// The maximum number of tokens in one lease.
const MAX_LEASE: u64 = LIMIT / (2 * NODES * CORES) as u64;
/// Hits of one check. The number is high enough that the debts of a core are far larger than the hits in doubt.
const HITS: u32 = 5;
/// `store.deadline`. On a shared machine a process may not run for longer than the production deadline.
const DEADLINE: Duration = Duration::from_millis(250);
/// The minimum time for which Redis is stopped.
const OUTAGE: Duration = Duration::from_millis(1000);
/// The time for which clients continue until service is normal.
const RECOVERY: Duration = Duration::from_secs(1);
/// The time for which clients continue after [`RECOVERY`].
const AFTERWARDS: Duration = Duration::from_secs(3);
/// The maximum number of checks of each connection for each limit in each of these times.
const MAX_ROUNDS: usize = 60;
/// The pause between two checks of a connection.
const PAUSE: Duration = Duration::from_millis(40);
/// A count that has not changed for this time does not change any more: all leases were returned and all debts
/// reported.
const STABLE_AFTER: Duration = Duration::from_secs(1);

/// The names of the limits. Each has one user with the same name.
const LIMITS: [&str; 2] = ["leased", "exact"];

/// The result of one check. Times are in microseconds since the epoch.
#[derive(Clone, Copy, Debug)]
struct CheckResult {
    sent_at: u64,
    answered_at: u64,
    /// Number of admitted hits.
    admitted: u64,
    degraded: bool,
    remaining: u64,
}

/// Nodes with many cores, and a few connections to each core.
struct LargeRegion {
    nodes: Vec<Node>,
    clients: Vec<RateLimitServiceClient<Channel>>,
    runtime: Runtime,
    _folder: TempDir,
}

impl LargeRegion {
    fn start(url: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("rules.yaml");
        // The window does not end within the test, and `on_store_failure` is `local` by default.
        let limit = |name: &str| {
            format!(
                "      - {{ name: {name}, match: {{ mode: [{name}] }}, per: [user], limit: {LIMIT}, window: 400d, \
                 algorithm: fixed_window, consistency: {name} }}\n"
            )
        };
        let limits = LIMITS.map(limit).concat();
        std::fs::write(&path, format!("version: 1\ndomains:\n  - domain: d\n    limits:\n{limits}")).unwrap();
        let (cores, holders, deadline) = (CORES.to_string(), (NODES * CORES).to_string(), format!("{DEADLINE:?}"));
        let start = |index: usize| {
            let name = format!("n{index}");
            let settings = [
                ("TIDEGATE_NODE", name.as_str()),
                ("TIDEGATE_WORKERS", &cores),
                ("TIDEGATE_STORE__LEASE", "200ms"),
                ("TIDEGATE_STORE__DEADLINE", &deadline),
                ("TIDEGATE_STORE__MIN_HOLDERS", &holders),
            ];
            Node::serve(&path, url, &settings)
        };
        let nodes: Vec<Node> = (0..NODES).map(start).collect();
        for node in &nodes {
            let known = || node.metric("tidegate_holders ") == (NODES * CORES) as f64;
            wait_for("the nodes to know each other", || known().then_some(()));
            wait_for("the node to reach the store", || (node.get("/ready").json()["store"] == "ok").then_some(()));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        // A node gives each connection to the core that has the fewest.
        let connect = |index: usize| {
            let endpoint = Endpoint::from_shared(format!("http://{}", nodes[index % NODES].grpc)).unwrap();
            RateLimitServiceClient::new(runtime.block_on(endpoint.connect()).unwrap())
        };
        let clients = (0..2 * NODES * CORES).map(connect).collect();
        Self { nodes, clients, runtime, _folder: folder }
    }

    /// Sends one check on one connection.
    async fn check(&self, client: usize, limit: &str, user: &str, hits: u32) -> CheckResult {
        let attributes = [("mode", limit), ("user", user)].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let request = CheckRequest { domain: "d".to_owned(), attributes, hits: Some(hits), ..CheckRequest::default() };
        let sent_at = now();
        let answer = self.clients[client].clone().check(request).await.unwrap().into_inner();
        CheckResult {
            sent_at,
            answered_at: now(),
            admitted: if answer.allowed { hits.into() } else { 0 },
            degraded: answer.degraded,
            remaining: answer.limits[0].remaining.unwrap(),
        }
    }

    /// Sends one check for this user on every connection, all at the same time.
    async fn check_all(&self, limit: &str, user: &str, hits: u32) -> Vec<CheckResult> {
        join_all((0..self.clients.len()).map(|client| self.check(client, limit, user, hits))).await
    }

    /// Sends checks on every connection for this time, but no more than [`MAX_ROUNDS`]. Returns the results for each
    /// limit.
    fn run_load(&self, time: Duration) -> [Vec<CheckResult>; 2] {
        let (start, mut results) = (now(), [Vec::new(), Vec::new()]);
        self.runtime.block_on(async {
            for _ in 0..MAX_ROUNDS {
                let round = join_all(LIMITS.map(|limit| self.check_all(limit, limit, HITS))).await;
                results.iter_mut().zip(round).for_each(|(results, more)| results.extend(more));
                tokio::time::sleep(PAUSE).await;
                if now() - start > micros(time) {
                    break;
                }
            }
        });
        results
    }

    /// Waits until the store's count does not change any more and returns it.
    fn wait_for_count(&self, limit: &str) -> u64 {
        let (mut last, mut since) = (None, now());
        let mut stable_count = || {
            let peek = Some(self.runtime.block_on(self.check(0, limit, limit, 0))).filter(|result| !result.degraded)?;
            if last.replace(peek.remaining) != Some(peek.remaining) {
                since = now();
            }
            (now() - since > micros(STABLE_AFTER)).then_some(LIMIT - peek.remaining)
        };
        wait_for("a stable count", &mut stable_count)
    }

    /// Returns the number of cores that the connections reach. The store must be unavailable: the first hit that a core
    /// admits for a user without hits leaves its share minus one.
    fn count_reached_cores(&self) -> usize {
        let results = self.runtime.block_on(self.check_all(LIMITS[0], "nobody", 1));
        let first = LIMIT / (NODES * CORES) as u64 - 1;
        results.iter().filter(|result| result.degraded && result.remaining == first).count()
    }

    fn failed_batches(&self) -> f64 {
        self.nodes.iter().map(|node| node.metric("tidegate_store_failed_batches_total ")).sum()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}

fn count_admitted(results: &[CheckResult]) -> u64 {
    results.iter().map(|result| result.admitted).sum()
}

/// Returns the checks that may be charged twice. Their core had no reply, decided without the store, and has a debt,
/// while Redis may have run the batch, too. Redis can run a batch before it is stopped, or after it continues if the
/// batch is not older than the deadline. A check that was decided before its deadline was not sent: its core knew that
/// the store was unavailable.
fn in_doubt(results: &[CheckResult], stopped: u64, resumed: u64) -> Vec<CheckResult> {
    let after_deadline = |result: &&CheckResult| result.answered_at - result.sent_at >= micros(DEADLINE);
    let may_run = |result: &&CheckResult| result.sent_at <= stopped || result.answered_at + micros(DEADLINE) >= resumed;
    results.iter().filter(|result| result.degraded).filter(after_deadline).filter(may_run).copied().collect()
}

#[test]
fn debts_of_36_cores_after_one_outage_are_charged_once() {
    let redis = SingleServer::start(&[]);
    let region = LargeRegion::start(&redis.url());
    // Every core learns the store's clock for each user. So batches that it sends during the outage are late when the
    // store continues.
    for (limit, user) in [(LIMITS[0], LIMITS[0]), (LIMITS[1], LIMITS[1]), (LIMITS[0], "nobody")] {
        let decided =
            || region.runtime.block_on(region.check_all(limit, user, 0)).iter().all(|result| !result.degraded);
        wait_for("all cores to have a reply", || decided().then_some(()));
    }
    let before = region.run_load(Duration::from_millis(500));
    // No core has a lease when the outage starts, because tokens that are returned to an unavailable store are lost.
    let counted_before = LIMITS.map(|limit| region.wait_for_count(limit));
    let stopped = now();
    redis.server.signal("STOP");
    let cores = region.count_reached_cores();
    let during = region.run_load(OUTAGE);
    let resumed = now();
    redis.server.signal("CONT");
    let mut after = region.run_load(RECOVERY);
    let failed = region.failed_batches();
    after.iter_mut().zip(region.run_load(AFTERWARDS)).for_each(|(after, more)| after.extend(more));
    let counted = LIMITS.map(|limit| region.wait_for_count(limit));
    let failed = region.failed_batches() - failed;

    println!("{cores} cores, Redis stopped for {} ms, {failed} batches failed later", (resumed - stopped) / 1000);
    let mut verdicts = Vec::new();
    for (index, limit) in LIMITS.into_iter().enumerate() {
        let [first, outage, last] = [&before, &during, &after].map(|results| count_admitted(&results[index]));
        let all = first + outage + last;
        let doubtful = in_doubt(&[&before[index][..], &during[index], &after[index]].concat(), stopped, resumed);
        // A batch without a reply may have taken a lease, too, which no core has then.
        let leases = if limit == "leased" { failed as u64 + doubtful.len() as u64 } else { 0 };
        let doubt = count_admitted(&doubtful) + leases * MAX_LEASE;
        let denied = after[index].iter().filter(|result| result.admitted == 0).count();
        let rounds = after[index].chunks(region.clients.len()).step_by(10);
        let left: Vec<u64> = rounds.map(|round| round.iter().map(|result| result.remaining).min().unwrap()).collect();
        let (before, counted) = (counted_before[index], counted[index]);
        println!(
            "{limit}: admitted {first} before the outage ({before} counted), {outage} during it, {last} after it, {all} in all"
        );
        println!(
            "{limit}: {counted} counted in the end, {} too many, {doubt} in doubt",
            i128::from(counted) - i128::from(all)
        );
        println!(
            "{limit}: {denied} of {} checks denied after it; remaining every ten rounds: {left:?}",
            after[index].len()
        );
        verdicts.push((limit, all, counted, doubt, denied));
    }
    assert!(cores > MAX_CELL_DEBTS, "more cores have debts than a cell keeps apart: {cores}");
    let degraded = during.iter().flatten().all(|result| result.degraded && result.admitted > 0);
    assert!(degraded, "during the outage the core of every connection admits without the store");
    for (limit, all, counted, doubt, denied) in verdicts {
        assert!(counted >= all, "{limit}: {all} admitted, {counted} counted");
        assert!(counted - all <= doubt, "{limit}: {all} admitted, {counted} counted, {doubt} in doubt");
        assert_eq!(denied, 0, "{limit}: the limit is not reached");
    }
}
