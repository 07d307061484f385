//! The members of a region: which nodes count in it.

use std::sync::Arc;

use tidegate::ports::{Region, Service, Shutdown};
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

/// Adds members whose heartbeat is valid until `end`, in milliseconds since the epoch.
fn add_members(port: u16, end: u64, members: &[String]) {
    let end = end.to_string();
    let arguments: Vec<&str> = members.iter().flat_map(|member| [end.as_str(), member.as_str()]).collect();
    redis_cli(port, &[&["ZADD", MEMBERS], &arguments[..]].concat());
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_that_no_node_can_have_written_do_not_count() {
    let redis = SingleServer::start(&[]);
    let port = redis.server.port;
    let shutdown = watch::Sender::new(false);
    let region = run(redis_region(&redis.url(), |config| config.node = "real".to_owned()), &shutdown);
    let cli = |arguments: &[&str]| redis_cli(port, arguments);
    let end = || cli(&["ZSCORE", MEMBERS, "real/1/1"]).trim().parse::<u64>().ok();
    let first = wait_for("the first heartbeat", end);

    // The clock of the server was an hour ahead, and a text has more cores than any machine.
    add_members(port, first + 3_600_000, &["ghost/7/4".to_owned()]);
    add_members(port, first, &["other/8/3".to_owned(), "huge/9/4294967295".to_owned()]);
    let holders = region.holders();
    wait_for("the cores of the other member", || (*holders.borrow() == 4).then_some(()));
    assert_eq!(cli(&["ZSCORE", MEMBERS, "ghost/7/4"]).trim(), "", "the next heartbeat removes it");

    let many: Vec<String> = (0..3000).map(|at| format!("m{at}/1/1")).collect();
    add_members(port, end().unwrap() - 1, &many);
    let count = || cli(&["ZCARD", MEMBERS]).trim().parse::<usize>().unwrap();
    wait_for("the oldest of too many members to be removed", || (count() == 1000).then_some(()));
    assert!(end().is_some(), "the own heartbeat is the newest");
    wait_for("the remaining ones to count", || (*holders.borrow() > 900).then_some(()));
    assert!(*holders.borrow() <= 1010, "{} holders", *holders.borrow());
}
