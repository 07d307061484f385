//! Drills with a primary that Sentinels watch.

use std::time::Duration;

use crate::drill::Fault;
use crate::region::Region;
use crate::servers::{Sentinels, redis_cli, wait_for};

#[test]
fn promises_hold_during_faults_with_sentinels() {
    let redis = Sentinels::start();
    let mut region = Region::start(&redis.url(), &[]);
    let is_primary = |index: usize| redis_cli(redis.servers[index].port, &["role"]).starts_with("master");
    let first = &redis.servers[0];
    let stop = |_: &mut Region| {
        first.signal("STOP");
        wait_for("the replica to take over", || is_primary(1).then_some(()));
    };
    let wake = |_: &mut Region| first.signal("CONT");
    // The replica may lack the charges of the last milliseconds.
    region.drill(
        Fault::new("the primary stops, its replica takes over", stop, wake).loses_data().recovers_during_fault(),
    );
    wait_for("the old primary to become a replica", || {
        redis_cli(first.port, &["info", "replication"]).contains("master_link_status:up").then_some(())
    });
    let signal_all = |name: &'static str| redis.sentinels.iter().for_each(|sentinel| sentinel.signal(name));
    region.drill(Fault::new("all Sentinels stop", |_| signal_all("STOP"), |_| signal_all("CONT")));
    let second = &redis.servers[1];
    let kill = |_: &mut Region| {
        second.signal("KILL");
        wait_for("the other server to take over", || is_primary(0).then_some(()));
    };
    region.drill(
        Fault::new("the primary is killed", kill, |_| ())
            .loses_data()
            .recovers_during_fault()
            .lasting(Duration::from_secs(1)),
    );
    region.print_report("A primary, a replica and three Sentinels, two nodes of two cores");
}

#[test]
fn a_primary_that_is_named_again_before_it_became_a_replica_loses_its_fence() {
    let redis = Sentinels::start();
    let mut region = Region::start(&redis.url(), &[]);
    let sentinel = redis.sentinels[0].port;
    let failover = |to: usize| {
        let start = || (redis_cli(sentinel, &["sentinel", "failover", "tidegate"]) == "OK").then_some(());
        wait_for("the failover to start", start);
        let port = redis.servers[to].port.to_string();
        let named = || redis_cli(sentinel, &["sentinel", "get-master-addr-by-name", "tidegate"]).contains(&port);
        wait_for("the failover to end", || named().then_some(()));
    };
    let twice = |_: &mut Region| {
        failover(1);
        // The first server is not a replica yet. It keeps its replication id, which the fence names.
        assert!(redis_cli(redis.servers[0].port, &["role"]).starts_with("master"));
        failover(0);
    };
    region.drill(
        Fault::new("two planned failovers in direct succession", twice, |_| ()).loses_data().recovers_during_fault(),
    );
    let fence = || redis_cli(redis.servers[0].port, &["--scan", "--pattern", "*{region}fence"]);
    wait_for("the fence of the primary to be removed", || fence().is_empty().then_some(()));
    region.print_report("Two planned failovers, a primary, a replica and three Sentinels, two nodes of two cores");
}
