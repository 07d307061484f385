//! A Redis that forgets, and one that moves: what is admitted beyond the limit is bounded by what was forgotten, and mostly
//! nothing, for nodes bring back what they remember.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::load::{Asked, Crowd, Rules, admitted, ask_all};
use crate::node::{Node, wait_for};
use crate::servers::{Cluster, Server, ask, free_ports};

const LIMIT: usize = 3000;

fn rules(consistency: &str) -> Rules {
    // Nothing is admitted without the store, so that whatever passes the limit is the store's.
    Rules::new(&[&format!(
        "name: l, per: [user], limit: {LIMIT}, window: 1d, algorithm: fixed_window, consistency: {consistency}, on_store_failure: deny"
    )])
}

async fn crowd(nodes: &[Node], checks: usize) -> usize {
    let crowd = Crowd { checks: checks as u64, time: Duration::from_secs(60), clients: 32, users: 1 };
    admitted(&ask_all(nodes, crowd, &Arc::new(AtomicBool::new(false))).await)
}

/// The port of the primary that has a counter of this region, and its replica's.
fn place(redis: &Cluster) -> (u16, u16) {
    let has = |port: &u16| {
        let keys = ask(*port, &["--scan"]);
        let role = ask(*port, &["role"]);
        role.starts_with("master") && keys.lines().any(|key| key.ends_with("/u0"))
    };
    let primary = wait_for("the counter", || redis.ports().find(has));
    let follows = |port: &u16| ask(*port, &["info", "replication"]).contains(&format!("master_port:{primary}"));
    (primary, redis.ports().find(follows).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_that_loses_charges_costs_no_more_than_it_lost() {
    for (count, consistency) in [(2, "exact"), (2, "leased"), (4, "exact"), (4, "leased")] {
        let redis = Cluster::start();
        let rules = rules(consistency);
        let nodes = rules.nodes(count, &redis.url(), &[("TIDEGATE_STORE__LEASE", "200ms")]);
        let before = crowd(&nodes, 1000).await;
        let (primary, replica) = place(&redis);
        ask(primary, &["wait", "1", "5000"]);
        // What is charged from now on is lost: the replica's connection is gone, and it cannot make another.
        redis.signal(replica, "STOP");
        assert_eq!(ask(primary, &["client", "kill", "type", "replica"]), "1");
        let forgotten = crowd(&nodes, 1000).await;
        redis.signal(primary, "KILL");
        redis.signal(replica, "CONT");
        wait_for("the replica to take over", || ask(replica, &["role"]).starts_with("master").then_some(()));
        // More than any tokens in hand cover: the store must say so, to every core.
        let whole = format!(r#"{{"domain":"d","attributes":{{"user":"u0"}},"hits":{LIMIT}}}"#);
        for node in &nodes {
            let decided = || node.check(&whole).json()["degraded"] == false;
            wait_for("its new primary", || (0..16).all(|_| decided()).then_some(()));
        }
        let after = crowd(&nodes, 8000).await;
        let all = before + forgotten + after;
        println!("{count} nodes, {consistency}: {forgotten} forgotten, {all} of {LIMIT} admitted");
        assert!(all <= LIMIT + forgotten, "{all} with {forgotten} forgotten");
        // Batches under way at the kill count as charged, leases that they asked for included.
        assert!(forgotten > 500 && all >= LIMIT * 8 / 10, "the limit can be used again: {all}");
        // Every core of every node has told what it remembers before most of the rest was granted.
        assert!(all <= LIMIT + forgotten / 2, "{all}: little of {forgotten} is granted again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushall_under_load_costs_no_more_than_was_charged() {
    let redis = Cluster::patient();
    for (count, consistency) in [(2, "exact"), (2, "leased"), (4, "exact"), (4, "leased")] {
        let rules = rules(consistency);
        let nodes = rules.nodes(count, &redis.url(), &[]);
        let before = crowd(&nodes, 2000).await;
        let ports: Vec<u16> = redis.ports().take(3).collect();
        let flush = tokio::task::spawn_blocking(move || {
            ports.iter().for_each(|port| assert_eq!(ask(*port, &["flushall"]), "OK"));
        });
        let after = crowd(&nodes, 10_000).await;
        flush.await.unwrap();
        let all = before + after;
        println!("{count} nodes, {consistency}: {all} of {LIMIT} admitted, FLUSHALL under load");
        assert!(all <= LIMIT + before, "{all}");
        assert!(all <= LIMIT + LIMIT / 10, "{all}: nodes remember");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn eviction_and_restarts_from_an_old_file_are_made_good() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_ports(1);
    let start = || Server::start(port, folder.path().join("redis"), &["--save", "", "--dbfilename", "old.rdb"]);
    let mut redis = start();
    let rules = rules("exact");
    let nodes = rules.nodes(2, &format!("redis://127.0.0.1:{port}"), &[]);
    let mut all = crowd(&nodes, 500).await;
    assert_eq!(ask(port, &["save"]), "OK");
    // Twice in one window the server comes back with the file of the beginning.
    for _ in 0..2 {
        all += crowd(&nodes, 500).await;
        redis.kill();
        redis = start();
        let whole = format!(r#"{{"domain":"d","attributes":{{"user":"u0"}},"hits":{LIMIT}}}"#);
        for node in &nodes {
            let decided = || node.check(&whole).json()["degraded"] == false;
            wait_for("the server that came back", || (0..16).all(|_| decided()).then_some(()));
        }
    }
    // An eviction takes one key away.
    all += crowd(&nodes, 500).await;
    let key = ask(port, &["--scan", "--pattern", "*/u0"]);
    assert_eq!(ask(port, &["del", &key]), "1");
    all += crowd(&nodes, 8000).await;
    println!("2 nodes, exact: {all} of {LIMIT} admitted, two restarts from an old file and an eviction");
    // What one core had charged last another need not have seen when it was granted.
    assert!((LIMIT..=LIMIT + LIMIT / 10).contains(&all), "{all}");
}

#[test]
fn what_is_charged_after_a_restart_is_not_taken_for_what_was_charged_before() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_ports(1);
    let start = || Server::start(port, folder.path().join("redis"), &["--save", "", "--dbfilename", "old.rdb"]);
    let mut redis = start();
    let nodes = rules("exact").nodes(2, &format!("redis://127.0.0.1:{port}"), &[]);
    // What is left after these hits, once the store decides.
    let left = |node: &Node, hits: usize| {
        let body = format!(r#"{{"domain":"d","attributes":{{"user":"u"}},"hits":{hits}}}"#);
        let decided = || Some(node.check(&body).json()).filter(|answer| answer["degraded"] == false);
        wait_for("the store", decided)["limits"][0]["remaining"].as_u64().unwrap() as usize
    };
    assert_eq!(left(&nodes[0], 300), LIMIT - 300);
    assert_eq!(ask(port, &["save"]), "OK");
    assert_eq!(left(&nodes[0], 200), LIMIT - 500);
    redis.kill();
    let _redis = start();
    assert_eq!(left(&nodes[1], 100), LIMIT - 400, "only the first node knows of the two hundred");
    // Whichever core heard of them.
    (0..16).for_each(|_| assert!(left(&nodes[0], 0) <= LIMIT - 400));
    assert_eq!(left(&nodes[0], 1), LIMIT - 601, "which it brings back, beside the hundred");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_to_a_fourth_primary_without_a_failed_check() {
    let redis = Cluster::patient();
    let users = 40;
    let rules =
        Rules::new(&["name: l, per: [user], limit: 500, window: 1d, algorithm: fixed_window, consistency: exact"]);
    let nodes = Arc::new(rules.nodes(2, &redis.url(), &[]));
    let stop = Arc::new(AtomicBool::new(false));
    let load = |users: u32| Crowd { checks: u64::MAX, time: Duration::from_secs(120), clients: 8, users };
    #[expect(clippy::disallowed_methods, reason = "both are waited for")]
    let [old, fresh] = [users, 1_000_000].map(|users| {
        let (nodes, stop) = (Arc::clone(&nodes), Arc::clone(&stop));
        tokio::spawn(async move { ask_all(&nodes, load(users), &stop).await })
    });
    let port = redis.port;
    let moved = tokio::task::spawn_blocking(move || {
        let folder = tempfile::tempdir().unwrap();
        let fourth = free_ports(1);
        let arguments = ["--cluster-enabled", "yes", "--cluster-node-timeout", "30000", "--save", ""];
        let server = Server::start(fourth, folder.path().join("fourth"), &arguments);
        let (new, known) = (format!("127.0.0.1:{fourth}"), format!("127.0.0.1:{port}"));
        let cli = |arguments: &[&str]| {
            let done = std::process::Command::new("redis-cli").arg("--cluster").args(arguments).output().unwrap();
            assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stdout));
        };
        cli(&["add-node", &new, &known]);
        wait_for("everybody to know the fourth", || {
            let knows = |port: u16| ask(port, &["cluster", "nodes"]).matches("connected").count() == 7;
            (port..port + 6).all(knows).then_some(())
        });
        // It calls itself down until it knows who serves what.
        wait_for("the fourth", || ask(fourth, &["cluster", "info"]).contains("cluster_state:ok").then_some(()));
        cli(&["rebalance", &known, "--cluster-use-empty-masters", "--cluster-yes"]);
        (server, folder)
    });
    let (server, _folder) = moved.await.unwrap();
    let keys: usize = ask(server.port, &["dbsize"]).parse().unwrap();
    stop.store(true, Ordering::Relaxed);
    let (old, fresh): (Vec<Asked>, Vec<Asked>) = (old.await.unwrap(), fresh.await.unwrap());
    let failed = old.iter().chain(&fresh).filter(|a| a.allowed.is_none() || a.degraded).count();
    println!(
        "{} checks of {users} users, {} of fresh ones, {failed} failed, {keys} keys moved",
        old.len(),
        fresh.len()
    );
    assert!(keys > 100, "counters moved");
    assert_eq!(failed, 0);
    // The fresh ones are the same users at first.
    for user in 0..users {
        let own: Vec<Asked> = old.iter().chain(&fresh).filter(|a| a.user == user).cloned().collect();
        assert!(admitted(&own) <= 500, "user {user}: {}", admitted(&own));
    }
}
