//! The calls in flight are bounded.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use http::StatusCode;
use tidegate_client::{Check, Client, Config, Decision, FailMode, Source};

use crate::servers::{Node, before, check, config};

async fn at_once(client: &Client, count: usize, check: &Check) -> Vec<Decision> {
    let ask = async || client.check(check).await.unwrap();
    join_all((0..count).map(|_| ask())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_checks_does_not_overload_the_node() {
    let node = Node::of_ten();
    for (denial_cache_size, count) in [(10_000, 1000), (0, 200)] {
        let (url, _) = before(&node, 64).await;
        let config = Config { fail_mode: FailMode::Allow, denial_cache_size, ..config(&[&url]) };
        let client = Client::new(config).unwrap();
        let check = check(&format!("many-{denial_cache_size}"));
        let decisions = at_once(&client, count, &check).await;
        assert_eq!(decisions.iter().filter(|decision| decision.allowed).count(), 10, "{denial_cache_size}");
    }
}

#[tokio::test]
async fn a_check_that_waited_is_denied_by_the_answer_to_another() {
    let node = Node::start();
    let (url, count) = before(&node, 1).await;
    let client = Client::new(Config { max_in_flight: 1, ..config(&[&url]) }).unwrap();
    at_once(&client, 100, &check("u")).await;
    assert_eq!(count.load(Ordering::Relaxed), 6);
}

#[tokio::test]
async fn the_wait_for_a_place_ends_with_the_deadline() {
    let node = Node::start();
    let (silent, _) = before(&node, 0).await;
    let deadline = Duration::from_millis(500);
    let config = Config { fail_mode: FailMode::Deny, max_in_flight: 1, deadline, ..config(&[&silent]) };
    let decisions = at_once(&Client::new(config).unwrap(), 20, &check("u")).await;
    let statuses: HashSet<StatusCode> = decisions.iter().map(|decision| decision.status).collect();
    assert_eq!(statuses, HashSet::from([StatusCode::SERVICE_UNAVAILABLE]));
}

#[tokio::test]
async fn a_single_node_that_is_silent_until_the_deadline_is_asked_once() {
    let node = Node::start();
    let (silent, count) = before(&node, 0).await;
    let client = Client::new(Config { deadline: Duration::from_secs(2), ..config(&[&silent]) }).unwrap();
    let decision = client.check(&check("u")).await.unwrap();
    let Source::FailMode(why) = decision.source else { panic!("{:?}", decision.source) };
    assert_eq!((count.load(Ordering::Relaxed), why.matches("no answer within").count()), (1, 1), "{why}");
}
