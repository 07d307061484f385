//! Faults of a primary that Sentinels watch.

use std::time::Duration;

use crate::alone;
use crate::drill::Fault;
use crate::region::Region;
use crate::servers::{Sentinels, ask, wait_for};

#[test]
fn sentinels_under_fire() {
    let _alone = alone();
    let redis = Sentinels::start();
    let mut region = Region::start(&redis.url(), &[]);
    let leads = |at: usize| ask(redis.servers[at].port, &["role"]).starts_with("master");
    let first = &redis.servers[0];
    let stop = |_: &mut Region| {
        first.signal("STOP");
        wait_for("the replica to take over", || leads(1).then_some(()));
    };
    let wake = |_: &mut Region| first.signal("CONT");
    // Whoever takes over may lack what was charged in the last milliseconds.
    region.drill(Fault::new("the primary stops, its replica takes over", stop, wake).forgets().overcome());
    wait_for("the old primary to follow", || {
        ask(first.port, &["info", "replication"]).contains("master_link_status:up").then_some(())
    });
    let silence = |name: &'static str| redis.sentinels.iter().for_each(|sentinel| sentinel.signal(name));
    region.drill(Fault::new("all Sentinels stop", |_| silence("STOP"), |_| silence("CONT")));
    let second = &redis.servers[1];
    let kill = |_: &mut Region| {
        second.signal("KILL");
        wait_for("the other to take over", || leads(0).then_some(()));
    };
    region.drill(Fault::new("the primary is killed", kill, |_| ()).forgets().overcome().lasts(Duration::from_secs(1)));
    region.report("A primary, a replica and three Sentinels, two nodes of two cores");
}

#[test]
fn a_primary_that_is_named_again_before_it_was_a_replica_counts_again() {
    let _alone = alone();
    let redis = Sentinels::start();
    let mut region = Region::start(&redis.url(), &[]);
    let sentinel = redis.sentinels[0].port;
    let failover = |to: usize| {
        let ask_for_it = || (ask(sentinel, &["sentinel", "failover", "tidegate"]) == "OK").then_some(());
        wait_for("a failover that begins", ask_for_it);
        let port = redis.servers[to].port.to_string();
        let named = || ask(sentinel, &["sentinel", "get-master-addr-by-name", "tidegate"]).contains(&port);
        wait_for("its end", || named().then_some(()));
    };
    let twice = |_: &mut Region| {
        failover(1);
        // The first server has not been made a replica yet: it keeps its replication id, and the fence names that.
        assert!(ask(redis.servers[0].port, &["role"]).starts_with("master"));
        failover(0);
    };
    region.drill(Fault::new("two failovers in order, at once one after the other", twice, |_| ()).forgets().overcome());
    let fence = || ask(redis.servers[0].port, &["--scan", "--pattern", "*{region}fence"]);
    wait_for("the primary to be without a fence", || fence().is_empty().then_some(()));
    region.report("Two planned failovers, a primary, a replica and three Sentinels, two nodes of two cores");
}
