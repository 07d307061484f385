//! A full table of keys during an outage of the store.

use crate::rules::{limit, rule_book};
use limiter::counter::StoreError;
use limiter::rules::{Algorithm, Consistency, OnStoreFailure};
use limiter::{
    Check, Descriptor, Event, LaneId, NodeTime, Reply, Revision, Shard, ShardConfig, TICK, Verdict, WallTime,
};

const CONFIG: ShardConfig = ShardConfig {
    max_keys: 64,
    max_waiting: 1000,
    lease_us: 1_000_000,
    deadline_us: 100_000,
    holders: 1,
    min_holders: 1,
    lanes: 1,
    max_items: 100,
    hash_keys: false,
    seeds: [1, 2, 3, 4],
};

#[test]
fn keys_that_are_evicted_during_an_outage_leave_nothing_behind() {
    let mut rule = limit("l", Algorithm::FixedWindow, 100, 3_600_000, Consistency::Exact);
    rule.on_store_failure = OnStoreFailure::Local;
    let mut shard: Shard<()> = Shard::new(CONFIG, WallTime(1_700_000_000_000_000), NodeTime(1));
    let mut now = NodeTime(1);
    let _ = shard.handle(Event::Rules(rule_book(vec![rule], Revision(1))), now);
    let mut admitted = 0;
    for user in 0..5000 {
        let user = user.to_string();
        let entries = [("user", user.as_str())];
        let descriptors =
            [Descriptor { entries: &entries, ordered: true, hits: 1, charging: Default::default(), limit: None }];
        let verdict = shard.check(&Check { domain: "d", descriptors: &descriptors }, |_| LaneId(0), now, || ());
        assert!(!matches!(verdict, Verdict::Overloaded(_)), "a key with only a debt makes room for another");
        // The store takes nothing: neither the batch of the check nor those that report debts.
        for event in [Event::Flush, Event::Tick, Event::Flush] {
            let effects = shard.handle(event, now);
            for out in effects.send {
                let reply = Reply { lane: out.lane, batch: out.batch.id, result: Err(StoreError::NotApplied) };
                let decided = shard.handle(Event::Reply(reply), now).decided;
                admitted += decided.iter().filter(|(_, decision)| decision.allowed && decision.degraded).count();
            }
        }
        now = now.plus(u64::try_from(TICK.as_micros()).unwrap());
    }
    assert!(admitted > 4000, "{admitted} checks were admitted locally");
    let stats = shard.stats();
    assert!(stats.keys <= CONFIG.max_keys);
    let places = stats.stalled;
    assert!((1..=CONFIG.max_keys).contains(&places), "{places} places for {} keys with debts", stats.keys);
}
