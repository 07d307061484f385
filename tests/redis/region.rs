//! Many nodes, one count: real `serve` processes on one real Redis Cluster, asked all at once.
//!
//! 20,000 checks a case, or as many as `TIDEGATE_CHECKS` says.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crate::load::{Asked, Crowd, Rules, admitted, ask_all, most_within};
use crate::node::{Node, wait_for};
use crate::servers::Cluster;

const SECOND: u64 = 1_000_000;

fn checks() -> u64 {
    std::env::var("TIDEGATE_CHECKS").ok().and_then(|n| n.parse().ok()).unwrap_or(20_000)
}

fn crowd() -> Crowd {
    Crowd { checks: checks(), time: Duration::from_secs(120), clients: 64, users: 1 }
}

async fn ask(nodes: &[Node], crowd: Crowd) -> Vec<Asked> {
    ask_all(nodes, crowd, &Arc::new(AtomicBool::new(false))).await
}

fn lost(nodes: &[Node]) -> f64 {
    nodes.iter().map(|node| node.metric("tidegate_store_failed_batches_total ")).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_are_asked_at_once_admit_one_limit() {
    let redis = Cluster::patient();
    for (count, consistency, least) in
        [(2, "exact", 10_000), (4, "exact", 10_000), (2, "leased", 9_900), (4, "leased", 9_900)]
    {
        let name = format!("{consistency}-{count}");
        let rule = format!(
            "name: {name}, per: [user], limit: 10000, window: 1d, algorithm: fixed_window, consistency: {consistency}"
        );
        let rules = Rules::new(&[&rule]);
        let nodes = rules.nodes(count, &redis.url(), &[]);
        let mut asked = ask(&nodes, crowd()).await;
        // Demand lasts: what some nodes hold while others refuse is asked for, too.
        while admitted(&asked) < least && asked.len() < 500_000 {
            asked.extend(ask(&nodes, Crowd { checks: 5000, ..crowd() }).await);
        }
        let (passed, lost) = (admitted(&asked), lost(&nodes));
        println!("{count} nodes, {consistency}: {passed} of {} admitted, {lost} batches lost", asked.len());
        assert!(asked.iter().all(|a| a.allowed.is_some() && !a.degraded), "every check was decided");
        assert!(passed <= 10_000, "{name}: {passed}");
        assert!(passed >= least || lost > 0.0, "{name}: {passed}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_algorithm_keeps_its_promise_on_the_wall_clock() {
    let redis = Cluster::patient();
    let algorithms = ["fixed_window", "sliding_window", "rolling_window", "token_bucket"];
    for (algorithm, consistency) in algorithms.into_iter().flat_map(|a| [(a, "exact"), (a, "leased")]) {
        if algorithm == "token_bucket" && consistency == "leased" {
            continue;
        }
        let rule = format!(
            "name: {algorithm}-{consistency}, per: [user], limit: 100, window: 1s, algorithm: {algorithm}, consistency: {consistency}"
        );
        let rules = Rules::new(&[&rule]);
        let nodes = rules.nodes(2, &redis.url(), &[]);
        let crowd = Crowd { checks: u64::MAX, time: Duration::from_secs(4), clients: 32, users: 1 };
        let asked = ask(&nodes, crowd).await;
        let mut aligned: HashMap<u64, usize> = HashMap::new();
        let inside = asked.iter().filter(|a| a.allowed == Some(true) && a.asked / SECOND == a.answered / SECOND);
        inside.for_each(|a| *aligned.entry(a.asked / SECOND).or_default() += 1);
        let most = most_within(&asked, SECOND);
        let busiest = aligned.values().max().copied().unwrap_or(0);
        println!(
            "{algorithm} {consistency}: {} asked, {} admitted, most in a second {most}, in an aligned one {busiest}",
            asked.len(),
            admitted(&asked)
        );
        let (any, in_aligned) = match algorithm {
            "fixed_window" => (200, 100),
            "sliding_window" => (200, 100),
            "rolling_window" => (100, 100),
            // A full bucket, and what refills in a second.
            _ => (200, 200),
        };
        assert!(most <= any && busiest <= in_aligned, "{algorithm} {consistency}: {most}, {busiest}");
        assert!(admitted(&asked) >= 100, "it was worked to the limit");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_check_is_charged_nowhere() {
    let redis = Cluster::patient();
    // By user, and one for all: on different primaries for most users.
    let rules = Rules::new(&[
        "name: small, per: [user], limit: 3, window: 1d, algorithm: fixed_window, consistency: exact",
        "name: all, per: [], limit: 100000, window: 1d, algorithm: fixed_window, consistency: exact",
    ]);
    let nodes = rules.nodes(2, &redis.url(), &[]);
    let users = 60;
    let crowd = Crowd { checks: 10 * u64::from(users), time: Duration::from_secs(60), clients: 16, users };
    let asked = ask(&nodes, crowd).await;
    let passed = admitted(&asked);
    // Checks of one user that reserve crosswise may both be refused; the next one passes.
    assert!(passed <= 3 * users as usize && passed >= 2 * users as usize, "{passed}");
    for node in &nodes {
        let remaining = || {
            let answer = node.check(r#"{"domain":"d","attributes":{"user":"look"},"hits":0}"#).json();
            let all = answer["limits"].as_array().unwrap().iter().find(|limit| limit["name"] == "all").cloned();
            all.unwrap()["remaining"].as_u64()
        };
        wait_for("a count of what was admitted and nothing else", || {
            (remaining() == Some(100_000 - passed as u64)).then_some(())
        });
    }
    let keys: usize =
        redis.ports().take(3).map(|port| crate::servers::ask(port, &["dbsize"]).parse::<usize>().unwrap()).sum();
    assert!(keys >= users as usize, "counters are spread over the primaries: {keys}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn small_limits_are_not_locked_up() {
    let redis = Cluster::patient();
    let limits: Vec<String> = (1..=20)
        .map(|limit| format!("name: l{limit}, match: {{ user: [u{limit}, v{limit}] }}, per: [user], limit: {limit}, window: 1d, algorithm: fixed_window"))
        .collect();
    let limits: Vec<&str> = limits.iter().map(String::as_str).collect();
    let rules = Rules::new(&limits);
    let nodes = rules.nodes(4, &redis.url(), &[]);
    // Each node asks once for each user, and all but one fall silent: the rest comes back within a lease.
    for limit in (1..=20u64).rev() {
        let ask = |node: &Node| {
            let body = format!(r#"{{"domain":"d","attributes":{{"user":"v{limit}"}}}}"#);
            u64::from(node.check(&body).status == 200)
        };
        let mut passed: u64 = nodes.iter().map(ask).sum();
        wait_for("the limit but one", || {
            passed += ask(&nodes[0]);
            assert!(passed <= limit, "limit {limit}: {passed}");
            (passed + 1 >= limit).then_some(())
        });
    }
    // Users 0 to 20: the first has no limit.
    let crowd = Crowd { checks: 21 * 60, time: Duration::from_secs(60), clients: 16, users: 21 };
    let asked = ask(&nodes, crowd).await;
    for limit in 1..=20u32 {
        let own: Vec<Asked> = asked.iter().filter(|a| a.user == limit).cloned().collect();
        let passed = admitted(&own);
        assert!(passed <= limit as usize && passed + 1 >= limit as usize, "limit {limit}: {passed}");
    }
}
