//! Callers that wait for less than the store may take.

use std::time::Duration;

use proto::tidegate::v1::CheckRequest;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use tonic::transport::Endpoint;

use crate::node::{Node, wait_for};
use crate::operate::{Folder, RULES};
use crate::servers::SingleServer;

/// Asks once over gRPC. Returns whether the check was allowed, and whether it was decided without the store; `None` if
/// the caller gave up.
#[tokio::main(flavor = "current_thread")]
async fn check_within(node: &Node, timeout: Duration) -> Option<(bool, bool)> {
    let channel = Endpoint::from_shared(format!("http://{}", node.grpc)).unwrap().connect().await.unwrap();
    let attributes = [("user".to_owned(), "u".to_owned())].into();
    let check = CheckRequest { domain: "d".to_owned(), attributes, ..CheckRequest::default() };
    let mut request = tonic::Request::new(check);
    request.set_timeout(timeout);
    let answer = RateLimitServiceClient::new(channel).check(request).await.ok()?.into_inner();
    Some((answer.allowed, answer.degraded))
}

#[test]
fn a_short_deadline_of_a_caller_denies_until_the_store_gets_no_more_calls() {
    let (folder, redis) = (Folder::new(), SingleServer::start(&[]));
    let rules = RULES.replace("exact }", "exact, on_store_failure: allow }");
    folder.write("rules.yaml", rules);
    let node = folder.start_node(&redis.url(), &[("TIDEGATE_STORE__DEADLINE", "2s"), ("TIDEGATE_WORKERS", "1")]);
    let check = || check_within(&node, Duration::from_secs(1));
    wait_for("a decision of the store", || (check() == Some((true, false))).then_some(()));
    redis.server.signal("STOP");
    let first = wait_for("an answer", check);
    assert_eq!(first, (false, true), "the caller chose to wait for less than the store may take");
    wait_for("answers that wait for no store", || (check() == Some((true, true))).then_some(()));
    redis.server.signal("CONT");
}
