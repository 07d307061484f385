//! A Redis that loses data, and a cluster that moves slots. At most the lost charges are admitted beyond the limit, and
//! mostly fewer, because nodes restore what they saw.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::load::{CheckRecord, Load, RuleFile, count_admitted, run_load};
use crate::node::{Node, wait_for};
use crate::servers::{Cluster, Server, free_ports, move_slots_to_a_fourth_primary, redis_cli};

const LIMIT: usize = 3000;

fn rules(consistency: &str) -> RuleFile {
    // Nothing is admitted without the store, so the store admitted every hit beyond the limit.
    RuleFile::new(&[&format!(
        "name: l, per: [user], limit: {LIMIT}, window: 1d, algorithm: fixed_window, consistency: {consistency}, on_store_failure: deny"
    )])
}

/// Sends `checks` checks for one user and returns the number of admitted ones.
async fn send_checks(nodes: &[Node], checks: usize) -> usize {
    let load = Load { max_checks: checks as u64, max_time: Duration::from_secs(60), clients: 32, users: 1 };
    count_admitted(&run_load(nodes, load, &Arc::new(AtomicBool::new(false))).await)
}

/// Returns the ports of the primary that has the counter of user 0 and of its replica.
fn primary_and_replica(redis: &Cluster) -> (u16, u16) {
    let has = |port: &u16| {
        let keys = redis_cli(*port, &["--scan"]);
        let role = redis_cli(*port, &["role"]);
        role.starts_with("master") && keys.lines().any(|key| key.ends_with("/u0"))
    };
    let primary = wait_for("the counter", || redis.ports().find(has));
    let follows = |port: &u16| redis_cli(*port, &["info", "replication"]).contains(&format!("master_port:{primary}"));
    (primary, redis.ports().find(follows).unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failover_admits_at_most_the_lost_charges_beyond_the_limit() {
    for (count, consistency) in [(2, "exact"), (2, "leased"), (4, "exact"), (4, "leased")] {
        let redis = Cluster::start();
        let rules = rules(consistency);
        let nodes = rules.start_nodes(count, &redis.url(), &[("TIDEGATE_STORE__LEASE", "200ms")]);
        let before = send_checks(&nodes, 1000).await;
        let (primary, replica) = primary_and_replica(&redis);
        redis_cli(primary, &["wait", "1", "5000"]);
        // Charges from now on are lost: the replica's connection is closed, and it cannot open another.
        redis.signal(replica, "STOP");
        assert_eq!(redis_cli(primary, &["client", "kill", "type", "replica"]), "1");
        let lost = send_checks(&nodes, 1000).await;
        redis.signal(primary, "KILL");
        redis.signal(replica, "CONT");
        wait_for("the replica to take over", || redis_cli(replica, &["role"]).starts_with("master").then_some(()));
        // No lease covers this many hits, so the store must decide, for every core.
        let whole = format!(r#"{{"domain":"d","attributes":{{"user":"u0"}},"hits":{LIMIT}}}"#);
        for node in &nodes {
            let decided = || node.check(&whole).json()["degraded"] == false;
            wait_for("the new primary to decide", || (0..16).all(|_| decided()).then_some(()));
        }
        let after = send_checks(&nodes, 8000).await;
        let all = before + lost + after;
        println!("{count} nodes, {consistency}: {lost} lost, {all} of {LIMIT} admitted");
        assert!(all <= LIMIT + lost, "{all} admitted, {lost} lost");
        // Batches in flight at the kill count as charged, including the leases that they asked for.
        assert!(lost > 500 && all >= LIMIT * 8 / 10, "the limit can be used again: {all} admitted");
        // Every core of every node restores what it saw before most of the rest is granted.
        assert!(all <= LIMIT + lost / 2, "{all} admitted: few of the {lost} lost hits are granted again");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flushall_under_load_admits_at_most_the_lost_charges_beyond_the_limit() {
    let redis = Cluster::start_with_slow_failover();
    for (count, consistency) in [(2, "exact"), (2, "leased"), (4, "exact"), (4, "leased")] {
        let rules = rules(consistency);
        let nodes = rules.start_nodes(count, &redis.url(), &[]);
        let before = send_checks(&nodes, 2000).await;
        let ports: Vec<u16> = redis.ports().take(3).collect();
        let flush = tokio::task::spawn_blocking(move || {
            ports.iter().for_each(|port| assert_eq!(redis_cli(*port, &["flushall"]), "OK"));
        });
        let after = send_checks(&nodes, 10_000).await;
        flush.await.unwrap();
        let all = before + after;
        println!("{count} nodes, {consistency}: {all} of {LIMIT} admitted, FLUSHALL under load");
        // How many are granted before the first node restores what it saw depends on how busy the machine is.
        assert!(all <= LIMIT + before / 2, "{all} admitted: nodes restore most of the {before} hits");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_restore_charges_after_an_eviction_and_restarts_from_an_old_file() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_ports(1);
    let start = || Server::start(port, folder.path().join("redis"), &["--save", "", "--dbfilename", "old.rdb"]);
    let mut redis = start();
    let rules = rules("exact");
    let nodes = rules.start_nodes(2, &format!("redis://127.0.0.1:{port}"), &[]);
    let mut all = send_checks(&nodes, 500).await;
    assert_eq!(redis_cli(port, &["save"]), "OK");
    // Twice in one window the server restarts with the first file.
    for _ in 0..2 {
        all += send_checks(&nodes, 500).await;
        redis.kill();
        redis = start();
        let whole = format!(r#"{{"domain":"d","attributes":{{"user":"u0"}},"hits":{LIMIT}}}"#);
        for node in &nodes {
            let decided = || node.check(&whole).json()["degraded"] == false;
            wait_for("the restarted server to decide", || (0..16).all(|_| decided()).then_some(()));
        }
    }
    // The deletion of one key stands for an eviction.
    all += send_checks(&nodes, 500).await;
    let key = redis_cli(port, &["--scan", "--pattern", "*/u0"]);
    assert_eq!(redis_cli(port, &["del", &key]), "1");
    all += send_checks(&nodes, 8000).await;
    println!("2 nodes, exact: {all} of {LIMIT} admitted, two restarts from an old file and an eviction");
    // A core need not have seen the last charges of another core when it was granted hits.
    assert!((LIMIT..=LIMIT + LIMIT / 10).contains(&all), "{all} admitted");
}

#[test]
fn charges_after_a_restart_are_kept_apart_from_charges_before_it() {
    let folder = tempfile::tempdir().unwrap();
    let port = free_ports(1);
    let start = || Server::start(port, folder.path().join("redis"), &["--save", "", "--dbfilename", "old.rdb"]);
    let mut redis = start();
    let nodes = rules("exact").start_nodes(2, &format!("redis://127.0.0.1:{port}"), &[]);
    // Returns the remaining hits after this check, as soon as the store decides.
    let left = |node: &Node, hits: usize| {
        let body = format!(r#"{{"domain":"d","attributes":{{"user":"u"}},"hits":{hits}}}"#);
        let decided = || Some(node.check(&body).json()).filter(|answer| answer["degraded"] == false);
        wait_for("the store to decide", decided)["limits"][0]["remaining"].as_u64().unwrap() as usize
    };
    assert_eq!(left(&nodes[0], 300), LIMIT - 300);
    assert_eq!(redis_cli(port, &["save"]), "OK");
    assert_eq!(left(&nodes[0], 200), LIMIT - 500);
    redis.kill();
    let _redis = start();
    assert_eq!(left(&nodes[1], 100), LIMIT - 400, "only the first node knows of the 200 lost hits");
    // Any core of the first node may answer.
    (0..16).for_each(|_| assert!(left(&nodes[0], 0) <= LIMIT - 400));
    assert_eq!(left(&nodes[0], 1), LIMIT - 601, "it restores the 200 hits, and the 100 stay charged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_move_to_a_fourth_primary_without_a_failed_check() {
    let redis = Cluster::start_with_slow_failover();
    let users = 40;
    let rules =
        RuleFile::new(&["name: l, per: [user], limit: 500, window: 1d, algorithm: fixed_window, consistency: exact"]);
    let nodes = Arc::new(rules.start_nodes(2, &redis.url(), &[]));
    let stop = Arc::new(AtomicBool::new(false));
    let load = |users: u32| Load { max_checks: u64::MAX, max_time: Duration::from_secs(120), clients: 8, users };
    #[expect(clippy::disallowed_methods, reason = "the test awaits both")]
    let [fixed_users, new_users] = [users, 1_000_000].map(|users| {
        let (nodes, stop) = (Arc::clone(&nodes), Arc::clone(&stop));
        tokio::spawn(async move { run_load(&nodes, load(users), &stop).await })
    });
    let port = redis.port;
    let moved = tokio::task::spawn_blocking(move || move_slots_to_a_fourth_primary(port));
    let (server, _folder) = moved.await.unwrap();
    let keys: usize = redis_cli(server.port, &["dbsize"]).parse().unwrap();
    stop.store(true, Ordering::Relaxed);
    let (fixed_users, new_users): (Vec<CheckRecord>, Vec<CheckRecord>) =
        (fixed_users.await.unwrap(), new_users.await.unwrap());
    let failed = fixed_users.iter().chain(&new_users).filter(|a| a.allowed.is_none() || a.degraded).count();
    println!(
        "{} checks of {users} users, {} of new users, {failed} failed, {keys} keys moved",
        fixed_users.len(),
        new_users.len()
    );
    assert!(keys > 100, "counters moved");
    assert_eq!(failed, 0);
    // The first new users have the same names.
    for user in 0..users {
        let own: Vec<CheckRecord> = fixed_users.iter().chain(&new_users).filter(|a| a.user == user).cloned().collect();
        assert!(count_admitted(&own) <= 500, "user {user}: {}", count_admitted(&own));
    }
}
