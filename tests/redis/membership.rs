//! The members of a region: which nodes count in it.

use std::sync::Arc;

use tidegate::ports::{Service, Shutdown};
use tidegate::store::redis::RedisRegion;
use tokio::sync::watch;

use crate::servers::{SingleServer, redis_cli, redis_region, wait_for};

const MEMBERS: &str = "tidegate:test:{region}members";

/// Runs a region as a node would, until the test ends.
#[expect(clippy::disallowed_methods, reason = "the task runs as long as the test's runtime")]
fn run(region: RedisRegion, shutdown: &watch::Sender<bool>) -> Arc<RedisRegion> {
    let region = Arc::new(region);
    let (running, shutdown) = (Arc::clone(&region), Shutdown(shutdown.subscribe()));
    tokio::spawn(async move { running.run(shutdown).await });
    region
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_left_sends_no_more_heartbeats() {
    let redis = SingleServer::start(&[]);
    let shutdown = watch::Sender::new(false);
    let leaving = run(redis_region(&redis.url(), |config| config.node = "leaving".to_owned()), &shutdown);
    run(redis_region(&redis.url(), |config| config.node = "staying".to_owned()), &shutdown);
    let cli = |arguments: &[&str]| redis_cli(redis.server.port, arguments);
    let members = || cli(&["ZRANGE", MEMBERS, "0", "-1"]);
    wait_for("both members", || (members().contains("leaving/") && members().contains("staying/")).then_some(()));
    // The score of a member is the instant at which it ends, so it grows with each heartbeat.
    let end = || cli(&["ZSCORE", MEMBERS, "staying/1/1"]).trim().parse::<u64>().unwrap();
    let end_at_leave = end();
    // The service still runs: other services may leave after it.
    leaving.leave().await;
    wait_for("three more heartbeats of the other member", || (end() >= end_at_leave + 2500).then_some(()));
    assert!(!members().contains("leaving/"), "{}", members());
}
