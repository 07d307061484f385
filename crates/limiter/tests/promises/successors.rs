//! The shard that replaces another one after a panic.

use limiter::counter::Part;
use limiter::rules::{Algorithm, Consistency, GlobalStrategy, Limit, OnPartition, Scope};
use limiter::{
    Charging, Check, Decision, Descriptor, Event, LaneId, NodeTime, Regions, Revision, Shard, ShardConfig, Ticket,
    Verdict, WallTime,
};

use crate::rules::{limit, rule_book};

const CONFIG: ShardConfig = ShardConfig {
    max_keys: 100,
    max_waiting: 100,
    lease_us: 300_000,
    deadline_us: 100_000,
    holders: 1,
    min_holders: 1,
    lanes: 1,
    max_items: 100,
    hash_keys: false,
    seeds: [1, 2, 3, 4],
};

/// A shard with a limit that denies while another region does not hear this one.
fn shard() -> Shard<u64> {
    let scope = Scope::Global(GlobalStrategy::Gossip { on_partition: OnPartition::Deny });
    let rules = vec![Limit { scope, ..limit("l", Algorithm::FixedWindow, 10, 60_000, Consistency::Exact) }];
    let mut shard = Shard::new(CONFIG, WallTime(0), NodeTime(0));
    let _ = shard.handle(Event::Rules(rule_book(rules, Revision(7))), NodeTime(0));
    shard
}

fn check(shard: &mut Shard<u64>) -> Verdict {
    let descriptors =
        [Descriptor { entries: &[("user", "u")], ordered: true, hits: 1, charging: Charging::IfAllowed, limit: None }];
    shard.check(&Check { domain: "d", descriptors: &descriptors }, |_| LaneId(0), NodeTime(0), || 1)
}

fn ticket(verdict: Verdict) -> Ticket {
    match verdict {
        Verdict::Waits { ticket, .. } => ticket,
        other => panic!("expected a check that waits, not {other:?}"),
    }
}

fn decision(verdict: Verdict) -> Decision {
    match verdict {
        Verdict::Decided(decision) => decision,
        other => panic!("expected a decision, not {other:?}"),
    }
}

#[test]
fn a_successor_has_the_rules_and_no_keys_and_confuses_no_tickets() {
    let mut shard = shard();
    let before = ticket(check(&mut shard));
    let mut successor = shard.successor(WallTime(0), NodeTime(0));
    assert_eq!((successor.book().revision, successor.stats().keys, successor.stats().waiting), (Revision(7), 0, 0));
    let after = ticket(check(&mut successor));
    assert!(after > before, "an event for a check of the old shard decides none of the new one");
    assert!(successor.handle(Event::Expire(before), NodeTime(0)).decided.is_empty());
    assert_eq!(successor.handle(Event::Expire(after), NodeTime(0)).decided.len(), 1);
}

#[test]
fn a_successor_knows_of_a_partition_as_well() {
    let part = Part { weight: 1, weights: 2 };
    let regions = |partitioned_since| Regions { part, floor_thousandths: 0, partitioned_since, rights: None };
    let mut shard = shard();
    let _ = shard.handle(Event::Regions(Some(regions(Some(NodeTime(0))))), NodeTime(0));
    for shard in [&mut shard.successor(WallTime(0), NodeTime(0)), &mut shard] {
        let denied = decision(check(shard));
        assert!(!denied.allowed && denied.partitioned);
        assert_eq!(denied.retry_after, Some(1_000_000), "a second later the partition may be over");
        // Once the partition is over, the store decides.
        let _ = shard.handle(Event::Regions(Some(regions(None))), NodeTime(0));
        ticket(check(shard));
    }
}
