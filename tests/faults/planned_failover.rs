//! `SENTINEL FAILOVER` under load. The old primary remains a primary for seconds after its replica has taken over.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use tonic::transport::Channel;

use crate::drill::pause;
use crate::load::{CheckRecord, connect, now, request};
use crate::node::{Node, wait_for};
use crate::servers::{Sentinels, Server, redis_cli};
use crate::timeline::Timeline;

/// Hits per second of both limits, and the bucket's burst.
const RATE: usize = 30;
/// The number of windows that may exceed the limit: the one in which nodes change to the new primary.
const MAX_WINDOWS_ABOVE: usize = 1;
/// The number of hits by which that window may exceed the limit: the last hits that the old primary granted, if no node
/// that asks the new primary has seen them.
const MAX_WINDOW_EXCESS: usize = RATE;
/// The number of hits by which the bucket may exceed its promise in any interval, for the same reason.
const MAX_BUCKET_EXCESS: f64 = RATE as f64;

const BEFORE: Duration = Duration::from_secs(3);
const AFTER: Duration = Duration::from_secs(12);
/// The pause between two checks of a client. A node has four clients for each user, which send more than twice the
/// number of checks that is admitted.
const PAUSE: Duration = Duration::from_millis(50);
const NODES: usize = 4;
/// The time between the readiness of a node and the start of the next. A node looks for its primary every five seconds
/// from its start on. So without a notification some node finds the new primary more than three seconds before the last
/// one.
const START_INTERVAL: Duration = Duration::from_millis(900);
const SECOND: u64 = 1_000_000;

/// The user with the fixed window.
const WINDOW: u32 = 0;
/// The user with the token bucket.
const BUCKET: u32 = 1;

/// Starts nodes and waits until they know each other and reach the store.
fn start_nodes(folder: &Path, url: &str) -> Vec<Node> {
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
    let start = |index: usize| {
        if index > 0 {
            pause(START_INTERVAL);
        }
        Node::serve(&rules, url, &[("TIDEGATE_NODE", &format!("n{index}")), ("TIDEGATE_WORKERS", "2")])
    };
    let nodes: Vec<Node> = (0..NODES).map(start).collect();
    for node in &nodes {
        let known = || node.metric("tidegate_holders ") == 2.0 * NODES as f64;
        wait_for("the nodes to know each other", || known().then_some(()));
        wait_for("the node to reach the store", || (node.get("/ready").json()["store"] == "ok").then_some(()));
    }
    nodes
}

/// Sends checks for one user until `stop` is set.
async fn check_until(
    mut client: RateLimitServiceClient<Channel>,
    user: u32,
    stop: Arc<AtomicBool>,
) -> Vec<CheckRecord> {
    let mut records = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let sent_at = now();
        let answer = client.check(request(user)).await.ok().map(tonic::Response::into_inner);
        let (allowed, degraded) = (answer.as_ref().map(|a| a.allowed), answer.is_some_and(|a| a.degraded));
        records.push(CheckRecord { user, sent_at, answered_at: now(), allowed, degraded });
        tokio::time::sleep(PAUSE).await;
    }
    records
}

/// Returns the admitted checks of one user.
fn admitted(records: &[CheckRecord], user: u32) -> Vec<CheckRecord> {
    records.iter().filter(|record| record.user == user && record.allowed == Some(true)).cloned().collect()
}

/// Returns the number of checks that were both sent and answered within each second of the clock.
fn by_window(admitted: &[CheckRecord]) -> BTreeMap<u64, usize> {
    let mut windows = BTreeMap::new();
    for one in admitted.iter().filter(|one| one.sent_at / SECOND == one.answered_at / SECOND) {
        *windows.entry(one.sent_at / SECOND).or_default() += 1;
    }
    windows
}

/// Returns the maximum number of hits admitted above burst + T × rate in any interval of any length T.
fn bucket_excess(admitted: &[CheckRecord]) -> f64 {
    let from = |from: u64| {
        let mut answered: Vec<u64> =
            admitted.iter().filter(|one| one.sent_at >= from).map(|one| one.answered_at).collect();
        answered.sort_unstable();
        let promised = move |to: u64| RATE as f64 * (1.0 + (to - from) as f64 / SECOND as f64);
        answered
            .into_iter()
            .enumerate()
            .map(move |(index, to)| (index + 1) as f64 - promised(to))
            .fold(f64::MIN, f64::max)
    };
    admitted.iter().map(|one| from(one.sent_at)).fold(f64::MIN, f64::max)
}

/// Returns the longest time in milliseconds during which all answers of a node were degraded.
fn longest_degraded_ms(records: &[CheckRecord]) -> u64 {
    let mut by_time = records.to_vec();
    by_time.sort_unstable_by_key(|one| one.answered_at);
    let stretches = by_time.chunk_by(|a, b| a.degraded == b.degraded).filter(|stretch| stretch[0].degraded);
    let length = |stretch: &[CheckRecord]| {
        let start = stretch.iter().map(|one| one.sent_at).min().unwrap();
        (stretch.last().unwrap().answered_at - start) / 1000
    };
    stretches.map(length).max().unwrap_or(0)
}

#[test]
fn a_planned_failover_exceeds_the_limit_by_at_most_one_limit_in_one_window() {
    let redis = Sentinels::start();
    let folder = tempfile::tempdir().unwrap();
    let nodes = start_nodes(folder.path(), &redis.url());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let stop = Arc::new(AtomicBool::new(false));
    let clients = runtime.block_on(connect(&nodes));
    let tasks: Vec<_> = clients
        .iter()
        .flat_map(|client| {
            [WINDOW, BUCKET].map(|user| runtime.spawn(check_until(client.clone(), user, Arc::clone(&stop))))
        })
        .collect();
    let [old, new] = &redis.servers[..] else { panic!("a primary and a replica") };
    let key = wait_for("the counter to exist", || {
        redis_cli(old.port, &["--scan"]).lines().find(|key| key.ends_with("/u0")).map(ToOwned::to_owned)
    });
    let counter = format!("GET {key}");
    let follow = |command: &str, servers: &[Server]| {
        servers.iter().map(|server| Timeline::start(server.port, command)).collect::<Vec<_>>()
    };
    let roles = follow("ROLE", &redis.servers);
    let counters = follow(&counter, &redis.servers);
    let named = follow("SENTINEL GET-MASTER-ADDR-BY-NAME tidegate", &redis.sentinels);
    pause(BEFORE);
    wait_for("the failover to start", || {
        (redis_cli(redis.sentinels[0].port, &["sentinel", "failover", "tidegate"]) == "OK").then_some(())
    });
    let began_at = now();
    pause(AFTER);
    stop.store(true, Ordering::Relaxed);

    let mut by_node = vec![Vec::new(); NODES];
    for (index, task) in tasks.into_iter().enumerate() {
        by_node[index / 2 % NODES].extend(runtime.block_on(task).unwrap());
    }
    let records = by_node.concat();
    let [roles, counters, named] =
        [roles, counters, named].map(|all| all.into_iter().map(Timeline::finish).collect::<Vec<_>>());
    let became = |server: usize, role: &str| {
        roles[server].iter().find(|(at, reply)| *at > began_at && reply.starts_with(role)).map(|(at, _)| *at)
    };
    let (promoted, demoted) = (became(1, "master"), became(0, "slave"));
    // An empty reply means that the counter does not exist, so it is not a charge.
    let charged = |server: usize| counters[server].iter().filter(|(_, record)| !record.is_empty()).map(|(at, _)| *at);
    let first = charged(1).find(|at| promoted.is_some_and(|promoted| *at > promoted));
    let last = charged(0).filter(|at| demoted.is_none_or(|demoted| *at < demoted)).max();
    println!("Milliseconds after SENTINEL FAILOVER, which started {} ms into a window:", began_at % SECOND / 1000);
    let since = |at: Option<u64>| {
        at.map_or("never".to_owned(), |at| ((at.cast_signed() - began_at.cast_signed()) / 1000).to_string())
    };
    println!("{} the replica is a primary, {} it is first charged", since(promoted), since(first));
    println!("{} the old primary is last charged, {} it is a replica", since(last), since(demoted));
    let names_new = |(at, to): &(u64, String)| (*at > began_at && to.ends_with(&new.port.to_string())).then_some(*at);
    let names: Vec<String> = named.iter().map(|replies| since(replies.iter().find_map(names_new))).collect();
    println!("{} the Sentinels name the new primary", names.join(", "));
    for (node, records) in nodes.iter().zip(&by_node) {
        let abnormal: Vec<&CheckRecord> = records.iter().filter(|one| one.degraded || one.allowed.is_none()).collect();
        println!(
            "{} of {} checks of a node without the store, from {} to {}, at most {} ms without interruption",
            abnormal.len(),
            records.len(),
            since(abnormal.iter().map(|one| one.sent_at).min()),
            since(abnormal.iter().map(|one| one.answered_at).max()),
            longest_degraded_ms(records)
        );
        node.log()
            .lines()
            .filter(|line| line.contains("Redis primaries") || line.contains("the region's Redis"))
            .for_each(|line| println!("  {line}"));
    }
    let windows = by_window(&admitted(&records, WINDOW));
    let switch = began_at / SECOND;
    let shown: Vec<String> =
        windows.iter().map(|(at, count)| format!("{:+}: {count}", *at as i64 - switch as i64)).collect();
    println!("admitted in each window of one second, 0 is that of the failover: {}", shown.join(", "));
    let buckets = by_window(&admitted(&records, BUCKET));
    println!("admitted by the bucket in the same seconds: {:?}", buckets.values().collect::<Vec<_>>());
    let excess = bucket_excess(&admitted(&records, BUCKET));
    println!("the bucket exceeds burst + T × rate by at most {excess:.1}, the bound is {MAX_BUCKET_EXCESS}");

    assert!(promoted.is_some() && first.is_some(), "the replica took over, and the nodes use its counters");
    let busy = windows.values().filter(|count| **count >= RATE - 5).count();
    assert!(busy >= 10, "clients use up nearly every window: {shown:?}");
    let above: Vec<(u64, usize)> = windows.into_iter().filter(|(_, count)| *count > RATE).collect();
    assert!(
        above.iter().all(|(_, count)| *count <= RATE + MAX_WINDOW_EXCESS),
        "no window has more hits than both primaries grant"
    );
    let consecutive = above.windows(2).all(|two| two[0].0 + 1 == two[1].0);
    assert!(above.len() <= MAX_WINDOWS_ABOVE && consecutive, "{} windows above {RATE}: {above:?}", above.len());
    assert!(excess <= MAX_BUCKET_EXCESS, "the bucket exceeds its promise by {excess:.1}");
}
