//! A shard bounds the checks that wait for the store.

use limiter::rules::{Algorithm, Consistency, Limit, OnStoreFailure, Quota};
use limiter::{
    Charging, Check, Decision, Descriptor, Event, LaneId, NodeTime, Overload, Revision, Shard, ShardConfig, Ticket,
    Verdict, WallTime,
};

use crate::rules::{limit, rule_book};

/// A shard with a limit of each user, whose store has not replied yet.
fn shard(max_waiting: usize) -> Shard<()> {
    shard_with(max_waiting, vec![limit("l", Algorithm::FixedWindow, 10, 60_000, Consistency::Exact)])
}

fn shard_with(max_waiting: usize, rules: Vec<Limit>) -> Shard<()> {
    let config = ShardConfig {
        max_keys: 10_000,
        max_waiting,
        lease_us: 300_000,
        deadline_us: 100_000,
        holders: 1,
        min_holders: 1,
        lanes: 1,
        max_items: 100,
        hash_keys: false,
        seeds: [1, 2, 3, 4],
    };
    let mut shard = Shard::new(config, WallTime(0), NodeTime(0));
    let _ = shard.handle(Event::Rules(rule_book(rules, Revision(1))), NodeTime(0));
    shard
}

fn check(shard: &mut Shard<()>, user: usize) -> Verdict {
    check_with(shard, user, "")
}

/// A check with an attribute that no limit uses.
fn check_with(shard: &mut Shard<()>, user: usize, path: &str) -> Verdict {
    let user = user.to_string();
    let entries = [("user", user.as_str()), ("path", path)];
    let descriptors =
        [Descriptor { entries: &entries, ordered: true, hits: 1, charging: Charging::IfAllowed, limit: None }];
    shard.check(&Check { domain: "d", descriptors: &descriptors }, |_| LaneId(0), NodeTime(0), || ())
}

/// The ticket of a check that waits.
fn ticket(verdict: Verdict) -> Ticket {
    match verdict {
        Verdict::Waits { ticket, .. } => ticket,
        other => panic!("expected a check that waits, not {other:?}"),
    }
}

#[test]
fn checks_beyond_those_that_may_wait_are_rejected_until_one_of_them_is_decided() {
    let mut shard = shard(3);
    let waiting: Vec<Ticket> = (0..3).map(|user| ticket(check(&mut shard, user))).collect();
    assert!(matches!(check(&mut shard, 3), Verdict::Overloaded(Overload::TooManyWaiting)));
    assert_eq!((shard.stats().waiting, shard.stats().keys), (3, 4));
    let decided = shard.handle(Event::Expire(waiting[1]), NodeTime(0)).decided;
    assert_eq!(decided.len(), 1);
    assert_eq!(shard.stats().waiting, 2);
    ticket(check(&mut shard, 3));
    // A caller that does not wait any more makes room, too.
    let _ = shard.handle(Event::Cancel(waiting[0]), NodeTime(0));
    ticket(check(&mut shard, 4));
    assert!(matches!(check(&mut shard, 5), Verdict::Overloaded(Overload::TooManyWaiting)));
}

/// The decision of a check that does not wait.
fn decision(verdict: Verdict) -> Decision {
    match verdict {
        Verdict::Decided(decision) => decision,
        other => panic!("expected a decision, not {other:?}"),
    }
}

#[test]
fn checks_with_long_attributes_do_not_wait_beyond_the_memory_of_those_that_may() {
    // Ten checks may wait. They may take 10 KiB beyond 4 KiB of each.
    let mut shard = shard(10);
    let path = "/".repeat(7_000);
    let waiting: Vec<Ticket> = (0..2).map(|user| ticket(check_with(&mut shard, user, &path))).collect();
    let third = decision(check_with(&mut shard, 2, &path));
    assert!(!third.allowed && third.degraded, "it is decided as if the store failed: {third:?}");
    assert_eq!((shard.stats().waiting, shard.stats().without_room), (2, 1));
    for user in 3..10 {
        // As long as those of a browser.
        ticket(check_with(&mut shard, user, &"/".repeat(1_000)));
    }
    let _ = shard.handle(Event::Cancel(waiting[0]), NodeTime(0));
    ticket(check_with(&mut shard, 2, &path));
    assert_eq!((shard.stats().waiting, shard.stats().without_room), (9, 1));
}

#[test]
fn no_check_is_too_large_to_wait_if_the_others_are_usual_ones() {
    let mut shard = shard(10);
    let path = "/".repeat(100_000);
    for _ in 0..3 {
        ticket(check(&mut shard, 0));
        let large = ticket(check_with(&mut shard, 1, &path));
        assert!(decision(check_with(&mut shard, 2, &path)).degraded);
        // The memory of each is given back.
        let _ = shard.handle(Event::Expire(large), NodeTime(0));
    }
}

#[test]
fn checks_with_many_limits_do_not_wait_beyond_the_memory_of_those_that_may() {
    let fixed = |at: u64| limit(&format!("l{at}"), Algorithm::FixedWindow, 10, 60_000 + at, Consistency::Exact);
    let mut shard = shard_with(10, (0..40).map(fixed).collect());
    ticket(check(&mut shard, 0));
    assert!(decision(check(&mut shard, 1)).degraded, "forty limits take more than 10 KiB");
}

/// A client chooses how long its attributes are. It must not bring about that a limit allows.
#[test]
fn a_check_for_which_there_is_no_memory_is_not_allowed_because_the_store_fails() {
    let path = "/".repeat(20_000);
    let rule = || limit("l", Algorithm::FixedWindow, 10, 60_000, Consistency::Exact);
    let unlimited = Limit { limit: Quota::Unlimited, on_store_failure: OnStoreFailure::Allow, ..rule() };
    for (rule, allowed) in [
        (Limit { on_store_failure: OnStoreFailure::Deny, ..rule() }, 0),
        (Limit { on_store_failure: OnStoreFailure::Allow, ..rule() }, 0),
        (Limit { on_store_failure: OnStoreFailure::Local, ..rule() }, 10),
        (unlimited, 30),
    ] {
        let mut shard = shard_with(10, vec![rule.clone()]);
        ticket(check_with(&mut shard, 1, &path));
        let decisions = (0..30).map(|_| decision(check_with(&mut shard, 0, &path)));
        assert_eq!(decisions.filter(|decision| decision.allowed).count(), allowed, "{rule:?}");
    }
}
