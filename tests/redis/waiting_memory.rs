//! The memory of checks that wait for a slow store.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};
use proto::tidegate::v1::CheckRequest;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use tonic::transport::Endpoint;

use crate::node::wait_for;
use crate::operate::{Folder, RULES};
use crate::servers::SingleServer;

/// A check of about 400 KB.
fn large(user: usize) -> CheckRequest {
    let mut check = CheckRequest { domain: "d".to_owned(), ..CheckRequest::default() };
    check.attributes.extend((0..99).map(|at| (format!("a{at}"), "x".repeat(4000))));
    check.attributes.insert("user".to_owned(), user.to_string());
    check
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_beyond_the_memory_of_those_that_may_wait_are_denied_at_once() {
    let (folder, redis) = (Folder::new(), SingleServer::start(&[]));
    folder.write("rules.yaml", RULES.replace("exact }", "exact, on_store_failure: allow }"));
    let settings =
        [("TIDEGATE_STORE__DEADLINE", "10s"), ("TIDEGATE_WORKERS", "1"), ("TIDEGATE_LIMITS__MAX_PENDING", "1000")];
    let node = folder.start_node(&redis.url(), &settings);
    wait_for("a decision of the store", || {
        let answer = node.check(r#"{"domain":"d","attributes":{"user":"other"},"hits":0}"#).json();
        (answer["degraded"] == false).then_some(())
    });
    let channel = Endpoint::from_shared(format!("http://{}", node.grpc)).unwrap().connect().await.unwrap();
    redis.server.signal("STOP");
    let ask = async |user| RateLimitServiceClient::new(channel.clone()).check(large(user)).await.unwrap().into_inner();
    let mut answers: FuturesUnordered<_> = (0..10).map(ask).collect();
    // A thousand KiB have room for two of them.
    for _ in 0..8 {
        let answer = tokio::time::timeout(Duration::from_secs(30), answers.next()).await.expect("it does not wait");
        let answer = answer.unwrap();
        assert!(!answer.allowed && answer.degraded, "the caller chose how long it is: {answer:?}");
    }
    assert_eq!(node.metric("tidegate_waiting_checks "), 2.0);
    assert_eq!(node.metric("tidegate_checks_without_room_total "), 8.0);
    redis.server.signal("CONT");
    // Those that waited are decided by the store, or as it failed.
    while let Some(answer) = answers.next().await {
        assert!(answer.allowed, "{answer:?}");
    }
}
