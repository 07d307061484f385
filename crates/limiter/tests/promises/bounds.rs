//! A shard bounds the checks that wait for the store.

use limiter::rules::{Algorithm, Consistency};
use limiter::{
    Charging, Check, Descriptor, Event, LaneId, NodeTime, Overload, Revision, Shard, ShardConfig, Ticket, Verdict,
    WallTime,
};

use crate::rules::{limit, rule_book};

/// A shard with a limit of each user, whose store has not replied yet.
fn shard(max_waiting: usize) -> Shard<()> {
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
    let rules = vec![limit("l", Algorithm::FixedWindow, 10, 60_000, Consistency::Exact)];
    let _ = shard.handle(Event::Rules(rule_book(rules, Revision(1))), NodeTime(0));
    shard
}

fn check(shard: &mut Shard<()>, user: usize) -> Verdict {
    let user = user.to_string();
    let entries = [("user", user.as_str())];
    let descriptors =
        [Descriptor { entries: &entries, ordered: true, hits: 1, charging: Charging::IfAllowed, limit: None }];
    shard.check(&Check { domain: "d", descriptors: &descriptors }, |_| LaneId(0), NodeTime(0), || ())
}

/// The ticket of a check that waits.
fn ticket(verdict: Verdict) -> Ticket {
    match verdict {
        Verdict::Waits(ticket) => ticket,
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
