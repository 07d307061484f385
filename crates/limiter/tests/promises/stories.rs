//! Scenarios with a few shards on one store. Each shows one guarantee that random interleavings seldom exercise.

use crate::rules::limit;
use crate::world::{LEASE_US, World};
use limiter::counter::{Bucket, Rate, Record};
use limiter::rules::{Algorithm, Condition, Consistency, Limit, Match, OnStoreFailure, Quota};
use limiter::{Event, Incarnation, NodeTime, Revision, StoreTime, Ticket};
use proptest::prelude::*;

pub const HOUR: u64 = 3_600_000;

pub fn world(holders: usize, hits: u64, consistency: Consistency) -> World {
    World::new(holders, vec![limit("l", Algorithm::FixedWindow, hits, HOUR, consistency)])
}

fn user_is(user: &str) -> Match {
    Match { conditions: [("user".to_owned(), Condition::Equal(user.to_owned()))].into(), ..Match::default() }
}

/// Sends `count` checks of one hit each, one at a time. Returns the number of admitted hits.
pub fn check_times(world: &mut World, holder: usize, count: u32) -> u64 {
    let before = world.admitted_hits(0);
    for _ in 0..count {
        world.check(holder, 0, 1);
        world.deliver_all();
    }
    world.admitted_hits(0) - before
}

#[test]
fn a_batch_that_runs_after_its_not_after_charges_nothing() {
    let mut world = world(2, 10, Consistency::Exact);
    // The holder learns the store's clock from the first reply.
    assert_eq!(check_times(&mut world, 0, 1), 1);
    world.check(0, 0, 4);
    let in_time = world.give_up_batch(0).unwrap();
    world.run_batch(&in_time);
    assert_eq!(
        world.charged_hits(0),
        5,
        "the store charges a batch that is in time: it cannot know that the holder gave up"
    );
    world.check(0, 0, 5);
    let late = world.give_up_batch(0).unwrap();
    world.advance(100_001);
    world.run_batch(&late);
    assert_eq!(world.charged_hits(0), 5, "its holder gave up more than one deadline ago");
    assert_eq!(check_times(&mut world, 1, 10), 5);
}

#[test]
fn checks_that_wait_behind_a_failed_item_are_sent() {
    let mut world = world(1, 10, Consistency::Exact);
    assert_eq!(check_times(&mut world, 0, 1), 1);
    // For a while the key holds a record of another kind.
    let original = std::mem::take(&mut world.store);
    for name in original.keys() {
        let bucket = Bucket::new(Incarnation(1), StoreTime(0), Rate::default(), Revision(1));
        world.store.insert(name.clone(), Some(Record::Bucket(bucket)));
    }
    world.check(0, 0, 1);
    world.deliver_batch(0, false);
    world.store = original;
    world.change_rules(vec![limit("l", Algorithm::FixedWindow, 11, HOUR, Consistency::Exact)]);
    world.check(0, 0, 1);
    world.check(0, 0, 1);
    world.deliver_all();
    assert_eq!((world.admitted_hits(0), world.denied), (3, 1));
}

#[test]
fn an_idle_key_returns_its_lease() {
    let mut world = world(1, 100, Consistency::Leased);
    assert_eq!(check_times(&mut world, 0, 30), 30);
    assert!(world.charged_hits(0) > 30);
    world.advance(LEASE_US + 1);
    world.deliver_all();
    assert_eq!(world.charged_hits(0), 30);
}

#[test]
fn a_batch_that_runs_twice_returns_tokens_once() {
    let mut world = world(1, 100, Consistency::Leased);
    assert_eq!(check_times(&mut world, 0, 30), 30);
    assert!(world.charged_hits(0) > 30);
    world.advance(LEASE_US + 1);
    world.deliver_batch(0, true);
    world.deliver_all();
    assert_eq!(world.charged_hits(0), 30);
}

#[test]
fn a_leased_token_is_not_spent_in_the_next_window() {
    let mut world = World::new(2, vec![limit("l", Algorithm::FixedWindow, 1000, 1000, Consistency::Leased)]);
    world.advance(900_000);
    assert_eq!(check_times(&mut world, 0, 200), 200);
    assert!(world.charged_hits(0) > 200, "the first holder has a lease from the old window");
    world.advance(150_000);
    let second = check_times(&mut world, 1, 1000);
    let first = check_times(&mut world, 0, 1000);
    assert!(second + first <= 1000, "{second} and {first} hits in one window");
}

#[test]
fn a_batch_that_is_repeated_after_later_batches_returns_tokens_once() {
    let mut world = world(2, 100, Consistency::Leased);
    assert_eq!(check_times(&mut world, 0, 30), 30);
    world.advance(LEASE_US + 1);
    let first = world.give_up_batch(0).unwrap();
    world.run_batch(&first);
    assert_eq!(world.charged_hits(0), 30);
    assert_eq!(check_times(&mut world, 1, 1), 1);
    let before = world.charged_hits(0);
    world.run_batch(&first);
    assert!(world.charged_hits(0) >= before, "its tokens were returned before");
}

#[derive(Clone, Debug)]
enum Step {
    Check(usize, u32),
    DeliverBatch(usize),
    DeliverReply(usize),
    Replicate,
    LoseData { all: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0usize..4, 1u32..4).prop_map(|(holder, hits)| Step::Check(holder, hits)),
        6 => (0usize..4).prop_map(Step::DeliverBatch),
        6 => (0usize..4).prop_map(Step::DeliverReply),
        2 => Just(Step::Replicate),
        1 => any::<bool>().prop_map(|all| Step::LoseData { all }),
    ]
}

proptest! {
    #![proptest_config(crate::world::proptest_config())]

    /// Failovers and restarts lose data. Charges that any holder saw in a reply are restored when it sends again, even
    /// if others charged in between.
    #[test]
    fn charges_that_the_store_lost_are_restored_by_the_holders(
        holders in 1usize..5,
        consistency in prop::sample::select(vec![Consistency::Exact, Consistency::Leased]),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = world(holders, 1_000_000, consistency);
        for step in steps {
            match step {
                Step::Check(holder, hits) => world.check(holder % holders, 0, hits),
                Step::DeliverBatch(holder) => world.deliver_batch(holder % holders, false),
                Step::DeliverReply(holder) => world.deliver_reply(holder % holders),
                Step::Replicate => world.replica = world.store.clone(),
                Step::LoseData { all } => world.lose_data(all),
            }
        }
        world.end_leases();
        for holder in 0..holders {
            world.check(holder, 0, 1);
            world.deliver_all();
        }
        world.end_leases();
        let (charged, admitted) = (world.charged_hits(0), world.admitted_hits(0));
        prop_assert!(charged >= admitted, "{charged} charged, {admitted} admitted");
    }
}

#[test]
fn a_check_that_a_window_denies_does_not_ask_the_bucket() {
    // The bucket refills 1,000 hits a second. A charge that is returned a millisecond later would be lost to the
    // refill.
    let rules = vec![
        limit("bucket", Algorithm::TokenBucket, 1000, 1000, Consistency::Exact),
        limit("window", Algorithm::FixedWindow, 5, HOUR, Consistency::Exact),
    ];
    let mut world = World::new(1, rules);
    assert_eq!(check_times(&mut world, 0, 5), 5);
    let missing = world.missing_hits(0);
    assert_eq!(missing, 5);
    // A denial is remembered for one lease time, so the store is asked each time.
    for _ in 0..200 {
        world.advance(LEASE_US + 1);
        assert_eq!(check_times(&mut world, 0, 1), 0);
        world.advance(1000);
        world.deliver_all();
    }
    let bucket = world.store.iter().find_map(|(_, record)| match record {
        Some(Record::Bucket(bucket)) => Some(bucket.clone()),
        _ => None,
    });
    assert!(bucket.unwrap().last < StoreTime(crate::world::START_US + LEASE_US), "the bucket was not asked again");
    // If the window grants, the bucket is asked, too.
    world.check(0, 1, 3);
    world.deliver_all();
    assert_eq!((world.admitted_hits(1), world.missing_hits(1)), (3, 3));
}

/// A limit of each user, and one that all users share.
fn own_and_shared(own: u64, shared: u64) -> Vec<Limit> {
    let mut all = limit("shared", Algorithm::FixedWindow, shared, HOUR, Consistency::Exact);
    all.per.clear();
    vec![limit("own", Algorithm::FixedWindow, own, HOUR, Consistency::Exact), all]
}

#[test]
fn hits_above_a_limit_lock_nobody_else_out() {
    let mut world = World::new(2, own_and_shared(5, 100));
    // It can never pass its own limit. It must not reserve the whole shared one meanwhile.
    world.check(0, 0, 100);
    world.deliver_batch(0, false);
    world.check(1, 1, 1);
    world.deliver_all();
    assert_eq!((world.admitted_hits(0), world.admitted_hits(1)), (0, 1));
    let decision = world.last_decision.take().unwrap();
    assert!(decision.allowed, "{decision:?}");
    // Its own limit says what remains of it, also at a node that has not seen it.
    world.check(1, 0, 100);
    world.deliver_all();
    let decision = world.last_decision.take().unwrap();
    assert_eq!((decision.allowed, decision.limits[0].remaining, decision.retry_after), (false, Some(5), None));
    // Without the store, another limit does not let it pass.
    let rules = own_and_shared(5, 100).into_iter();
    world.change_rules(rules.map(|limit| Limit { on_store_failure: OnStoreFailure::Allow, ..limit }).collect());
    world.check(0, 0, 100);
    world.lose_batch(0, false);
    assert_eq!(world.admitted_hits(0), 0);
}

#[test]
fn a_denial_is_forgotten_once_the_hits_that_caused_it_come_back() {
    let mut world = World::new(1, own_and_shared(5, 6));
    assert_eq!(check_times(&mut world, 0, 4), 4);
    // User 0 has one hit left, and reserves what is left of the shared limit until its own limit denies.
    world.check(0, 0, 2);
    world.check(0, 1, 1);
    world.deliver_all();
    assert_eq!(world.denied, 2);
    world.check(0, 1, 1);
    world.deliver_all();
    assert_eq!(world.admitted_hits(1), 1);
}

#[test]
fn a_denied_check_returns_nothing_to_an_unlimited_bucket() {
    let mut unlimited = limit("unlimited", Algorithm::TokenBucket, 1, 1000, Consistency::Exact);
    unlimited.limit = Quota::Unlimited;
    let mut world =
        World::new(1, vec![unlimited, limit("bucket", Algorithm::TokenBucket, 5, HOUR, Consistency::Exact)]);
    // An unlimited bucket has no counter, so it keeps its grant when the other bucket denies. That breaks no invariant.
    assert_eq!(check_times(&mut world, 0, 8), 5);
}

#[test]
fn a_check_that_expires_between_window_and_bucket_leaves_no_charge() {
    let rules = vec![
        limit("bucket", Algorithm::TokenBucket, 10, HOUR, Consistency::Exact),
        limit("window", Algorithm::FixedWindow, 5, HOUR, Consistency::Exact),
    ];
    let mut world = World::new(1, rules);
    world.check(0, 0, 1);
    // The window has granted, and the bucket is asked next.
    world.deliver_batch(0, false);
    world.deliver_reply(0);
    world.expire_all(0);
    world.end_leases();
    assert_eq!((world.admitted_hits(0), world.charged_hits(0), world.missing_hits(0)), (0, 0, 0));
}

#[test]
fn a_lease_admits_checks_that_arrived_while_it_was_in_flight() {
    let mut world = world(1, 1_000_000, Consistency::Leased);
    // Under load there are always waiting checks when a reply arrives.
    for _ in 0..200 {
        (0..8).for_each(|_| world.check(0, 0, 1));
        world.deliver_batch(0, false);
        (0..8).for_each(|_| world.check(0, 0, 1));
        world.deliver_reply(0);
        world.advance(1000);
    }
    let batches = world.holders[0].shard.stats().batches;
    assert!(batches < 50, "{batches} batches for 3,200 checks");
    world.end_leases();
    assert_eq!((world.admitted_hits(0), world.charged_hits(0)), (3200, 3200));
}

#[test]
fn a_withdrawn_check_is_not_sent() {
    // Only the first check asks the window first. So it reaches the shared bucket after a check that came later.
    let mut window = limit("window", Algorithm::FixedWindow, 9, HOUR, Consistency::Exact);
    window.matches = user_is("0");
    let mut bucket = limit("bucket", Algorithm::TokenBucket, 5, HOUR, Consistency::Exact);
    bucket.per = Vec::new();
    let mut world = World::new(1, vec![bucket, window]);
    world.check(0, 0, 4);
    world.deliver_batch(0, false);
    world.check(0, 1, 1);
    world.deliver_reply(0);
    let _ = world.holders[0].shard.handle(Event::Cancel(Ticket(0)), NodeTime(world.now));
    world.check(0, 1, 3);
    world.deliver_all();
    assert_eq!(world.admitted_hits(1), 4, "the four hits of the withdrawn check are not charged");
    world.end_leases();
    assert_eq!((world.admitted_hits(0), world.charged_hits(0)), (0, 0));
}

#[test]
fn an_expired_check_is_not_sent_again_after_a_late_batch() {
    let mut world = World::new(1, vec![limit("bucket", Algorithm::TokenBucket, 5, HOUR, Consistency::Exact)]);
    assert_eq!(check_times(&mut world, 0, 1), 1);
    world.check(0, 0, 4);
    world.send_batch(0);
    world.expire_all(0);
    world.advance(150_000);
    world.deliver_batch(0, false);
    world.deliver_reply(0);
    world.check(0, 0, 3);
    world.deliver_all();
    assert_eq!(world.admitted_hits(0), 4, "4 tokens are free, and the expired check does not take them");
}

#[derive(Clone, Copy, Debug)]
enum SingleHolderStep {
    Check(u8, u32),
    SendBatch,
    DeliverBatch,
    DeliverReply,
    Expire(usize),
    Advance(u64),
}

fn single_holder_step() -> impl Strategy<Value = SingleHolderStep> {
    prop_oneof![
        6 => (0u8..2, 1u32..4).prop_map(|(user, hits)| SingleHolderStep::Check(user, hits)),
        4 => Just(SingleHolderStep::SendBatch),
        4 => Just(SingleHolderStep::DeliverBatch),
        4 => Just(SingleHolderStep::DeliverReply),
        3 => (0usize..8).prop_map(SingleHolderStep::Expire),
        2 => prop_oneof![0u64..20_000, Just(150_000)].prop_map(SingleHolderStep::Advance),
    ]
}

proptest! {
    #![proptest_config(crate::world::proptest_config())]

    /// Batches come late, and checks expire one by one. `World::send_batch` asserts that no batch asks for more hits
    /// than the waiting checks need.
    #[test]
    fn no_batch_asks_for_hits_of_expired_checks(
        clock_is_known in any::<bool>(),
        steps in prop::collection::vec(single_holder_step(), 1..60),
    ) {
        // Only one user's checks ask the window first. So they reach the bucket after checks that came later.
        let mut window = limit("window", Algorithm::FixedWindow, 1000, HOUR, Consistency::Exact);
        window.matches = user_is("0");
        let mut bucket = limit("bucket", Algorithm::TokenBucket, 1000, HOUR, Consistency::Exact);
        bucket.per = Vec::new();
        let rules = vec![bucket, window];
        let mut world =
            if clock_is_known { World::new(1, rules) } else { World::with_unknown_clock(1, rules, 1000) };
        for step in steps {
            match step {
                SingleHolderStep::Check(user, hits) => world.check(0, user, hits),
                SingleHolderStep::SendBatch => world.send_batch(0),
                SingleHolderStep::DeliverBatch => world.deliver_batch(0, false),
                SingleHolderStep::DeliverReply => world.deliver_reply(0),
                SingleHolderStep::Expire(nth) => world.expire_one(0, nth),
                SingleHolderStep::Advance(micros) => world.advance(micros),
            }
        }
        world.end_leases();
    }
}

#[test]
fn a_window_without_the_store_denies_before_the_bucket_is_asked() {
    let bucket = limit("bucket", Algorithm::TokenBucket, 1000, 1000, Consistency::Exact);
    let window = limit("window", Algorithm::FixedWindow, 9, HOUR, Consistency::Exact);
    let mut world = World::new(1, vec![bucket, window]);
    world.check(0, 0, 1);
    world.fail_to_send(0);
    world.deliver_all();
    // `limit` sets `on_store_failure` to `deny`.
    assert_eq!((world.admitted_hits(0), world.store.len()), (0, 0), "the bucket was not asked");
}

#[test]
fn an_ended_lease_is_not_spent_before_the_next_tick() {
    let mut world = world(1, 1_000_000, Consistency::Leased);
    for _ in 0..100 {
        check_times(&mut world, 0, 1);
        world.advance(1000);
    }
    let before = world.admitted_hits(0);
    world.check(0, 0, 1);
    assert_eq!(world.admitted_hits(0), before + 1, "the check is paid from the lease");
    // The lease ends between two ticks.
    world.now += LEASE_US + 1;
    world.check(0, 0, 1);
    assert_eq!(world.admitted_hits(0), before + 1, "the store is asked");
    world.deliver_all();
    assert_eq!(world.admitted_hits(0), before + 2);
}
