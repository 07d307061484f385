//! An outage in which more cores admit by themselves than a cell keeps apart: what they owe is charged once.

use std::time::Duration;

use futures_util::future::join_all;
use proto::tidegate::v1::CheckRequest;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

use crate::alone;
use crate::crowd::now;
use crate::node::{Node, wait_for};
use crate::servers::Single;

const NODES: usize = 3;
/// Cores of a node.
const CORES: usize = 12;
/// So many debts a cell kept apart when this was written.
const APART: usize = 32;
const LIMIT: u64 = 100_000;
/// Tokens that a core takes in advance at once, at most.
const LEASE: u64 = LIMIT / (2 * NODES * CORES) as u64;
/// Hits of one check: a core owes far more after the outage than may be in doubt.
const HITS: u32 = 5;
/// `store.deadline`: a machine that is shared may not run a process for longer than a node in production waits.
const DEADLINE: Duration = Duration::from_millis(250);
/// How long Redis stands still, at least.
const OUTAGE: Duration = Duration::from_millis(1000);
/// How long clients go on afterwards: until service is normal, and then.
const RECOVERY: Duration = Duration::from_secs(1);
const AFTERWARDS: Duration = Duration::from_secs(3);
/// Every connection asks for each limit so often at most in each of these times.
const ROUNDS: usize = 60;
/// Between two checks of a connection.
const PAUSE: Duration = Duration::from_millis(40);
/// A count that has not changed for so long does not change any more: leases went back, debts were told.
const STANDS: Duration = Duration::from_secs(1);

/// The limits that are asked for: each has a user of its own, whose name is the limit's.
const LIMITS: [&str; 2] = ["leased", "exact"];

/// One answer; instants in microseconds since the epoch.
#[derive(Clone, Copy, Debug)]
struct Told {
    asked: u64,
    answered: u64,
    /// Hits that were admitted.
    admitted: u64,
    degraded: bool,
    remaining: u64,
}

/// Many cores, and a few connections to each of them.
struct Wide {
    nodes: Vec<Node>,
    clients: Vec<RateLimitServiceClient<Channel>>,
    runtime: Runtime,
    _folder: TempDir,
}

impl Wide {
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
        let node = |at: usize| {
            let name = format!("n{at}");
            let settings = [
                ("TIDEGATE_NODE", name.as_str()),
                ("TIDEGATE_WORKERS", &cores),
                ("TIDEGATE_STORE__LEASE", "200ms"),
                ("TIDEGATE_STORE__DEADLINE", &deadline),
                ("TIDEGATE_STORE__MIN_HOLDERS", &holders),
            ];
            Node::serve(&path, url, &settings)
        };
        let nodes: Vec<Node> = (0..NODES).map(node).collect();
        for node in &nodes {
            let known = || node.metric("tidegate_holders ") == (NODES * CORES) as f64;
            wait_for("nodes that know each other", || known().then_some(()));
            wait_for("a store that is reached", || (node.get("/ready").json()["store"] == "ok").then_some(()));
        }
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        // A node gives each connection to the core that has the fewest.
        let connect = |at: usize| {
            let endpoint = Endpoint::from_shared(format!("http://{}", nodes[at % NODES].grpc)).unwrap();
            RateLimitServiceClient::new(runtime.block_on(endpoint.connect()).unwrap())
        };
        let clients = (0..2 * NODES * CORES).map(connect).collect();
        Self { nodes, clients, runtime, _folder: folder }
    }

    async fn ask(&self, client: usize, limit: &str, user: &str, hits: u32) -> Told {
        let attributes = [("mode", limit), ("user", user)].map(|(k, v)| (k.to_owned(), v.to_owned())).into();
        let request = CheckRequest { domain: "d".to_owned(), attributes, hits: Some(hits), ..CheckRequest::default() };
        let asked = now();
        let answer = self.clients[client].clone().check(request).await.unwrap().into_inner();
        Told {
            asked,
            answered: now(),
            admitted: if answer.allowed { hits.into() } else { 0 },
            degraded: answer.degraded,
            remaining: answer.limits[0].remaining.unwrap(),
        }
    }

    /// Every connection asks for this user once, all at the same time.
    async fn round(&self, limit: &str, user: &str, hits: u32) -> Vec<Told> {
        join_all((0..self.clients.len()).map(|client| self.ask(client, limit, user, hits))).await
    }

    /// Every connection asks again and again, for so long and for [`ROUNDS`] at most. Answers what each limit's was told.
    fn rounds(&self, time: Duration) -> [Vec<Told>; 2] {
        let (begun, mut told) = (now(), [Vec::new(), Vec::new()]);
        self.runtime.block_on(async {
            for _ in 0..ROUNDS {
                let both = join_all(LIMITS.map(|limit| self.round(limit, limit, HITS))).await;
                told.iter_mut().zip(both).for_each(|(told, more)| told.extend(more));
                tokio::time::sleep(PAUSE).await;
                if now() - begun > micros(time) {
                    break;
                }
            }
        });
        told
    }

    /// What the store has counted, once that does not change any more.
    fn counted(&self, limit: &str) -> u64 {
        let (mut last, mut since) = (None, now());
        let mut stands = || {
            let peek = Some(self.runtime.block_on(self.ask(0, limit, limit, 0))).filter(|told| !told.degraded)?;
            if last.replace(peek.remaining) != Some(peek.remaining) {
                since = now();
            }
            (now() - since > micros(STANDS)).then_some(LIMIT - peek.remaining)
        };
        wait_for("a count that stands", &mut stands)
    }

    /// How many cores the connections reach. To be asked while the store is away: the first hit that a core admits of a user
    /// whom nobody knows leaves all but one of its share.
    fn reached(&self) -> usize {
        let told = self.runtime.block_on(self.round(LIMITS[0], "nobody", 1));
        let first = LIMIT / (NODES * CORES) as u64 - 1;
        told.iter().filter(|told| told.degraded && told.remaining == first).count()
    }

    fn failed_batches(&self) -> f64 {
        self.nodes.iter().map(|node| node.metric("tidegate_store_failed_batches_total ")).sum()
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}

fn admitted(told: &[Told]) -> u64 {
    told.iter().map(|told| told.admitted).sum()
}

/// Checks that may be charged twice: the core got no answer, decided by itself, and owes the hits, while Redis may have run the
/// batch, too. A batch can be run before Redis is stopped, or from when it goes on, if it is not older than the deadline. A
/// check that was decided sooner than after a deadline was not under way: its core knew that nobody answers.
fn in_doubt(told: &[Told], stopped: u64, resumed: u64) -> Vec<Told> {
    let alone = told.iter().filter(|told| told.degraded && told.answered - told.asked >= micros(DEADLINE));
    let may_run = |told: &&Told| told.asked <= stopped || told.answered + micros(DEADLINE) >= resumed;
    alone.filter(may_run).copied().collect()
}

#[test]
fn what_36_cores_admit_in_one_outage_is_charged_once() {
    let _alone = alone();
    let redis = Single::start(&[]);
    let wide = Wide::start(&redis.url());
    // Every core hears the store's clock for each of the users: what it sends later in vain is late when the store goes on.
    for (limit, user) in [(LIMITS[0], LIMITS[0]), (LIMITS[1], LIMITS[1]), (LIMITS[0], "nobody")] {
        let heard = || wide.runtime.block_on(wide.round(limit, user, 0)).iter().all(|told| !told.degraded);
        wait_for("all cores to be answered", || heard().then_some(()));
    }
    let before = wide.rounds(Duration::from_millis(500));
    // No core holds a lease when the outage begins: what is given back to a store that does not answer is lost.
    let counted_before = LIMITS.map(|limit| wide.counted(limit));
    let stopped = now();
    redis.server.signal("STOP");
    let cores = wide.reached();
    let during = wide.rounds(OUTAGE);
    let resumed = now();
    redis.server.signal("CONT");
    let mut after = wide.rounds(RECOVERY);
    let failed = wide.failed_batches();
    after.iter_mut().zip(wide.rounds(AFTERWARDS)).for_each(|(after, more)| after.extend(more));
    let counted = LIMITS.map(|limit| wide.counted(limit));
    let failed = wide.failed_batches() - failed;

    println!("{cores} cores, Redis away for {} ms, {failed} batches failed later", (resumed - stopped) / 1000);
    let mut verdicts = Vec::new();
    for (at, limit) in LIMITS.into_iter().enumerate() {
        let [first, alone, last] = [&before, &during, &after].map(|told| admitted(&told[at]));
        let all = first + alone + last;
        let doubtful = in_doubt(&[&before[at][..], &during[at], &after[at]].concat(), stopped, resumed);
        // A batch without an answer may have taken a lease, too, which nobody has then.
        let leases = if limit == "leased" { failed as u64 + doubtful.len() as u64 } else { 0 };
        let doubt = admitted(&doubtful) + leases * LEASE;
        let denied = after[at].iter().filter(|told| told.admitted == 0).count();
        let rounds = after[at].chunks(wide.clients.len()).step_by(10);
        let left: Vec<u64> = rounds.map(|round| round.iter().map(|told| told.remaining).min().unwrap()).collect();
        let (before, counted) = (counted_before[at], counted[at]);
        println!(
            "{limit}: admitted {first} before the outage ({before} counted), {alone} in it, {last} after it, {all} in all"
        );
        println!(
            "{limit}: {counted} counted in the end, {} too many, {doubt} in doubt",
            i128::from(counted) - i128::from(all)
        );
        println!(
            "{limit}: {denied} of {} checks denied after it; remaining every ten rounds: {left:?}",
            after[at].len()
        );
        verdicts.push((limit, all, counted, doubt, denied));
    }
    assert!(cores > APART, "more cores owe than a cell keeps apart: {cores}");
    let alone = during.iter().flatten().all(|told| told.degraded && told.admitted > 0);
    assert!(alone, "every connection's core admits by itself in the outage");
    for (limit, all, counted, doubt, denied) in verdicts {
        assert!(counted >= all, "{limit}: {all} admitted, {counted} counted");
        assert!(counted - all <= doubt, "{limit}: {all} admitted, {counted} counted, {doubt} in doubt");
        assert_eq!(denied, 0, "{limit}: the limit is far away");
    }
}
