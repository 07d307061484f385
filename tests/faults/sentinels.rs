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
