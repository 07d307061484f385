//! `SENTINEL FAILOVER` under load: the old primary goes on as a primary for seconds after its replica took over.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use tonic::transport::Channel;

use crate::alone;
use crate::drill::pause;
use crate::load::{Asked, connect, now, request};
use crate::node::{Node, wait_for};
use crate::servers::{Sentinels, Server, ask};
use crate::timeline::Timeline;

/// Hits a second of both limits, and the bucket's burst.
const RATE: usize = 30;
/// Windows that may see more than the limit: the one in which nodes go over to the new primary.
const WINDOWS_ABOVE: usize = 1;
/// What that window may see above the limit: what the old primary granted last, if nobody who asks the new one remembers it.
const WINDOW_EXCESS: usize = RATE;
/// What the bucket may see above its promise in any interval: the same.
const BUCKET_EXCESS: f64 = RATE as f64;

const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(12);
/// Between two checks of a client. A node has four clients of each user, who ask for more than twice what is granted.
const PAUSE: Duration = Duration::from_millis(50);
const NODES: usize = 4;
/// Between a node that is ready and the start of the next. A node looks for its primary every five seconds from its start on:
/// whenever the replica takes over, some node finds it more than three seconds before the last one does, if none is told.
const APART: Duration = Duration::from_millis(900);
const SECOND: u64 = 1_000_000;

const WINDOW: u32 = 0;
const BUCKET: u32 = 1;

fn start(folder: &Path, url: &str) -> Vec<Node> {
    let limit = |user: u32, rest: &str| {
        format!(
            "      - {{ name: l{user}, match: {{ user: [u{user}] }}, per: [user], limit: {RATE}, window: 1s, \
             on_store_failure: deny, {rest} }}\n"
        )
    };
    let limits = limit(WINDOW, "algorithm: fixed_window, consistency: exact")
        + &limit(BUCKET, &format!("algorithm: token_bucket, burst: {RATE}"));
    let rules = folder.join("rules.yaml");
    std::fs::write(&rules, format!("version: 1\ndomains:\n  - domain: d\n    limits:\n{limits}")).unwrap();
    let node = |at: usize| {
        if at > 0 {
            pause(APART);
        }
        Node::serve(&rules, url, &[("TIDEGATE_NODE", &format!("n{at}")), ("TIDEGATE_WORKERS", "2")])
    };
    let nodes: Vec<Node> = (0..NODES).map(node).collect();
    for node in &nodes {
        let known = || node.metric("tidegate_holders ") == 2.0 * NODES as f64;
        wait_for("nodes that know each other", || known().then_some(()));
        wait_for("a store that is reached", || (node.get("/ready").json()["store"] == "ok").then_some(()));
    }
    nodes
}

async fn ask_until(mut client: RateLimitServiceClient<Channel>, user: u32, stop: Arc<AtomicBool>) -> Vec<Asked> {
    let mut noted = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let asked = now();
        let answer = client.check(request(user)).await.ok().map(tonic::Response::into_inner);
        let (allowed, degraded) = (answer.as_ref().map(|a| a.allowed), answer.is_some_and(|a| a.degraded));
        noted.push(Asked { user, asked, answered: now(), allowed, degraded });
        tokio::time::sleep(PAUSE).await;
    }
    noted
}

fn allowed(noted: &[Asked], user: u32) -> Vec<Asked> {
    noted.iter().filter(|asked| asked.user == user && asked.allowed == Some(true)).cloned().collect()
}

/// What was admitted wholly within each second of the clock.
fn by_window(admitted: &[Asked]) -> BTreeMap<u64, usize> {
    let mut windows = BTreeMap::new();
    for one in admitted.iter().filter(|one| one.asked / SECOND == one.answered / SECOND) {
        *windows.entry(one.asked / SECOND).or_default() += 1;
    }
    windows
}

/// The most that was admitted above burst + T × rate in any interval of whatever length T.
fn bucket_excess(admitted: &[Asked]) -> f64 {
    let from = |from: u64| {
        let mut answered: Vec<u64> = admitted.iter().filter(|one| one.asked >= from).map(|one| one.answered).collect();
        answered.sort_unstable();
        let promised = move |to: u64| RATE as f64 * (1.0 + (to - from) as f64 / SECOND as f64);
        answered.into_iter().enumerate().map(move |(at, to)| (at + 1) as f64 - promised(to)).fold(f64::MIN, f64::max)
    };
    admitted.iter().map(|one| from(one.asked)).fold(f64::MIN, f64::max)
}

/// How long it lasted at most that a node's answers all came without the store, in milliseconds.
fn longest_without_store(of_node: &[Asked]) -> u64 {
    let mut by_time = of_node.to_vec();
    by_time.sort_unstable_by_key(|one| one.answered);
    let stretches = by_time.chunk_by(|a, b| a.degraded == b.degraded).filter(|stretch| stretch[0].degraded);
    let length = |stretch: &[Asked]| {
        let begun = stretch.iter().map(|one| one.asked).min().unwrap();
        (stretch.last().unwrap().answered - begun) / 1000
    };
    stretches.map(length).max().unwrap_or(0)
}

#[test]
fn a_planned_failover_costs_no_more_than_one_limit_in_one_window() {
    let _alone = alone();
    let redis = Sentinels::start();
    let folder = tempfile::tempdir().unwrap();
    let nodes = start(folder.path(), &redis.url());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let clients = runtime.block_on(connect(&nodes));
    let tasks: Vec<_> = clients
        .iter()
        .flat_map(|client| {
            [WINDOW, BUCKET].map(|user| runtime.spawn(ask_until(client.clone(), user, Arc::clone(&stop))))
        })
        .collect();
    let [old, new] = &redis.servers[..] else { panic!("a primary and a replica") };
    let key = wait_for("the counter", || {
        ask(old.port, &["--scan"]).lines().find(|key| key.ends_with("/u0")).map(ToOwned::to_owned)
    });
    let counter = format!("GET {key}");
    let follow = |question: &str, servers: &[Server]| {
        servers.iter().map(|server| Timeline::begin(server.port, question)).collect::<Vec<_>>()
    };
    let roles = follow("ROLE", &redis.servers);
    let counters = follow(&counter, &redis.servers);
    let named = follow("SENTINEL GET-MASTER-ADDR-BY-NAME tidegate", &redis.sentinels);
    pause(BEFORE);
    wait_for("a failover that begins", || {
        (ask(redis.sentinels[0].port, &["sentinel", "failover", "tidegate"]) == "OK").then_some(())
    });
    let begun = now();
    pause(AFTER);
    stop.store(true, Ordering::Relaxed);

    let mut by_node = vec![Vec::new(); NODES];
    for (at, task) in tasks.into_iter().enumerate() {
        by_node[at / 2 % NODES].extend(runtime.block_on(task).unwrap());
    }
    let noted = by_node.concat();
    let [roles, counters, named] =
        [roles, counters, named].map(|all| all.into_iter().map(Timeline::end).collect::<Vec<_>>());
    let became = |at: usize, role: &str| {
        roles[at].iter().find(|(at, answer)| *at > begun && answer.starts_with(role)).map(|(at, _)| *at)
    };
    let (promoted, demoted) = (became(1, "master"), became(0, "slave"));
    // A counter that is gone was not charged.
    let charged = |at: usize| counters[at].iter().filter(|(_, record)| !record.is_empty()).map(|(at, _)| *at);
    let first = charged(1).find(|at| promoted.is_some_and(|promoted| *at > promoted));
    let last = charged(0).filter(|at| demoted.is_none_or(|demoted| *at < demoted)).max();
    println!("Milliseconds after SENTINEL FAILOVER, which came {} ms into a window:", begun % SECOND / 1000);
    let since = |at: Option<u64>| {
        at.map_or("never".to_owned(), |at| ((at.cast_signed() - begun.cast_signed()) / 1000).to_string())
    };
    println!("{} the replica is a primary, {} it is first charged", since(promoted), since(first));
    println!("{} the old primary is last charged, {} it is a replica", since(last), since(demoted));
    let names_new = |(at, to): &(u64, String)| (*at > begun && to.ends_with(&new.port.to_string())).then_some(*at);
    let names: Vec<String> = named.iter().map(|told| since(told.iter().find_map(names_new))).collect();
    println!("{} the Sentinels name the new primary", names.join(", "));
    for (node, noted) in nodes.iter().zip(&by_node) {
        let without: Vec<&Asked> = noted.iter().filter(|one| one.degraded || one.allowed.is_none()).collect();
        println!(
            "{} of {} checks of a node without the store, from {} to {}, at most {} ms without a break",
            without.len(),
            noted.len(),
            since(without.iter().map(|one| one.asked).min()),
            since(without.iter().map(|one| one.answered).max()),
            longest_without_store(noted)
        );
        node.log()
            .lines()
            .filter(|line| line.contains("Redis primaries") || line.contains("the region's Redis"))
            .for_each(|line| println!("  {line}"));
    }
    let windows = by_window(&allowed(&noted, WINDOW));
    let switch = begun / SECOND;
    let shown: Vec<String> =
        windows.iter().map(|(at, count)| format!("{:+}: {count}", *at as i64 - switch as i64)).collect();
    println!("admitted by window of a second, 0 being that of the failover: {}", shown.join(", "));
    let buckets = by_window(&allowed(&noted, BUCKET));
    println!("of the bucket in the same seconds: {:?}", buckets.values().collect::<Vec<_>>());
    let excess = bucket_excess(&allowed(&noted, BUCKET));
    println!("of the bucket at most {excess:.1} above burst + T × rate, of {BUCKET_EXCESS}");

    assert!(promoted.is_some() && first.is_some(), "the replica took over, and nodes count there");
    let busy = windows.values().filter(|count| **count >= RATE - 5).count();
    assert!(busy >= 10, "clients use the limit nearly all the time: {shown:?}");
    let above: Vec<(u64, usize)> = windows.into_iter().filter(|(_, count)| *count > RATE).collect();
    assert!(
        above.iter().all(|(_, count)| *count <= RATE + WINDOW_EXCESS),
        "no window sees more than both primaries grant"
    );
    let together = above.windows(2).all(|two| two[0].0 + 1 == two[1].0);
    assert!(above.len() <= WINDOWS_ABOVE && together, "{} windows above {RATE}: {above:?}", above.len());
    assert!(excess <= BUCKET_EXCESS, "the bucket's excess: {excess:.1}");
}
