//! Several real `serve` processes with common counters in one real Redis Cluster, under concurrent load.
//!
//! Each case sends 20,000 checks. `TIDEGATE_CHECKS` overrides the number.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::load::{CheckRecord, Load, RuleFile, count_admitted, max_admitted_within, run_load};
use crate::node::{Node, wait_for};
use crate::servers::Cluster;

const SECOND: u64 = 1_000_000;

fn checks() -> u64 {
    std::env::var("TIDEGATE_CHECKS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

fn load() -> Load {
    Load { max_checks: checks(), max_time: Duration::from_secs(120), clients: 64, users: 1 }
}

async fn send_checks(nodes: &[Node], load: Load) -> Vec<CheckRecord> {
    run_load(nodes, load, &Arc::new(AtomicBool::new(false))).await
}

fn failed_batches(nodes: &[Node]) -> f64 {
    nodes.iter().map(|node| node.metric("tidegate_store_failed_batches_total ")).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_under_concurrent_load_admit_one_limit() {
    let redis = Cluster::start_with_slow_failover();
    for (count, consistency, min_admitted) in
        [(2, "exact", 10_000), (4, "exact", 10_000), (2, "leased", 9_900), (4, "leased", 9_900)]
    {
        let name = format!("{consistency}-{count}");
        let rule = format!(
            "name: {name}, per: [user], limit: 10000, window: 1d, algorithm: fixed_window, consistency: {consistency}"
        );
        let rules = RuleFile::new(&[&rule]);
        let nodes = rules.start_nodes(count, &redis.url(), &[]);
        let mut records = send_checks(&nodes, load()).await;
        // The load continues, because some nodes may hold leases while others deny.
        while count_admitted(&records) < min_admitted && records.len() < 500_000 {
            records.extend(send_checks(&nodes, Load { max_checks: 5000, ..load() }).await);
        }
        let (passed, failed) = (count_admitted(&records), failed_batches(&nodes));
        println!("{count} nodes, {consistency}: {passed} of {} admitted, {failed} batches failed", records.len());
        assert!(records.iter().all(|a| a.allowed.is_some() && !a.degraded), "every check was decided");
        assert!(passed <= 10_000, "{name}: {passed} admitted");
        assert!(passed >= min_admitted || failed > 0.0, "{name}: {passed} admitted");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_algorithm_keeps_its_guarantee_in_real_time() {
    let redis = Cluster::start_with_slow_failover();
    let algorithms = ["fixed_window", "sliding_window", "rolling_window", "token_bucket"];
    for (algorithm, consistency) in algorithms.into_iter().flat_map(|a| [(a, "exact"), (a, "leased")]) {
        if algorithm == "token_bucket" && consistency == "leased" {
            continue;
        }
        let rule = format!(
            "name: {algorithm}-{consistency}, per: [user], limit: 100, window: 1s, algorithm: {algorithm}, consistency: {consistency}"
        );
        let rules = RuleFile::new(&[&rule]);
        let nodes = rules.start_nodes(2, &redis.url(), &[]);
        let load = Load { max_checks: u64::MAX, max_time: Duration::from_secs(4), clients: 32, users: 1 };
        let records = send_checks(&nodes, load).await;
        let mut by_clock_second: HashMap<u64, usize> = HashMap::new();
        let inside = records.iter().filter(|a| a.allowed == Some(true) && a.sent_at / SECOND == a.answered_at / SECOND);
        inside.for_each(|a| *by_clock_second.entry(a.sent_at / SECOND).or_default() += 1);
        let any_second = max_admitted_within(&records, SECOND);
        let clock_second = by_clock_second.values().max().copied().unwrap_or(0);
        println!(
            "{algorithm} {consistency}: {} sent, {} admitted, at most {any_second} in any second, {clock_second} in a clock second",
            records.len(),
            count_admitted(&records)
        );
        let (max_any, max_clock) = match algorithm {
            "fixed_window" => (200, 100),
            "sliding_window" => (200, 100),
            "rolling_window" => (100, 100),
            // A full bucket and the refill of one second.
            _ => (200, 200),
        };
        let within = any_second <= max_any && clock_second <= max_clock;
        assert!(within, "{algorithm} {consistency}: {any_second} in any second, {clock_second} in a clock second");
        assert!(count_admitted(&records) >= 100, "the load reached the limit");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denied_check_is_charged_to_no_limit() {
    let redis = Cluster::start_with_slow_failover();
    // One limit for each user and one for all. For most users the two counters are on different primaries.
    let rules = RuleFile::new(&[
        "name: small, per: [user], limit: 3, window: 1d, algorithm: fixed_window, consistency: exact",
        "name: all, per: [], limit: 100000, window: 1d, algorithm: fixed_window, consistency: exact",
    ]);
    let nodes = rules.start_nodes(2, &redis.url(), &[]);
    let users = 60;
    let load = Load { max_checks: 10 * u64::from(users), max_time: Duration::from_secs(60), clients: 16, users };
    let records = send_checks(&nodes, load).await;
    let passed = count_admitted(&records);
    // Two checks of one user may each reserve at one limit and both be denied. The next check is admitted.
    assert!(passed <= 3 * users as usize && passed >= 2 * users as usize, "{passed} admitted");
    for node in &nodes {
        let remaining = || {
            let answer = node.check(r#"{"domain":"d","attributes":{"user":"peek"},"hits":0}"#).json();
            let all = answer["limits"].as_array().unwrap().iter().find(|limit| limit["name"] == "all").cloned();
            all.unwrap()["remaining"].as_u64()
        };
        wait_for("the counter to equal the admitted hits", || {
            (remaining() == Some(100_000 - passed as u64)).then_some(())
        });
    }
    let keys: usize =
        redis.ports().take(3).map(|port| crate::servers::redis_cli(port, &["dbsize"]).parse::<usize>().unwrap()).sum();
    assert!(keys >= users as usize, "the primaries together have a counter for each user: {keys} keys");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_limits_can_be_used_up_despite_leases() {
    let redis = Cluster::start_with_slow_failover();
    let limits: Vec<String> = (1..=20)
        .map(|limit| format!("name: l{limit}, match: {{ user: [u{limit}, v{limit}] }}, per: [user], limit: {limit}, window: 1d, algorithm: fixed_window"))
        .collect();
    let limits: Vec<&str> = limits.iter().map(String::as_str).collect();
    let rules = RuleFile::new(&limits);
    let nodes = rules.start_nodes(4, &redis.url(), &[]);
    // Each node gets one check for each user. Then only one node gets checks: the others return their leases at their
    // end.
    for limit in (1..=20u64).rev() {
        let check = |node: &Node| {
            let body = format!(r#"{{"domain":"d","attributes":{{"user":"v{limit}"}}}}"#);
            u64::from(node.check(&body).status == 200)
        };
        let mut passed: u64 = nodes.iter().map(check).sum();
        wait_for("all hits of the limit but one", || {
            passed += check(&nodes[0]);
            assert!(passed <= limit, "limit {limit}: {passed} admitted");
            (passed + 1 >= limit).then_some(())
        });
    }
    // The load is for users 0 to 20. User 0 has no limit.
    let load = Load { max_checks: 21 * 60, max_time: Duration::from_secs(60), clients: 16, users: 21 };
    let records = send_checks(&nodes, load).await;
    for limit in 1..=20u32 {
        let own: Vec<CheckRecord> = records.iter().filter(|a| a.user == limit).cloned().collect();
        let passed = count_admitted(&own);
        assert!(passed <= limit as usize && passed + 1 >= limit as usize, "limit {limit}: {passed} admitted");
    }
}
