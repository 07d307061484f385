//! A few shards on one store, each story about one promise that queue at random seldom meets.

use crate::world::{LEASE_US, World, limit};
use limiter::counter::{Bucket, Rate, Record};
use limiter::rules::{Algorithm, Condition, Consistency, Match};
use limiter::{Event, Incarnation, NodeTime, Revision, StoreTime, Ticket};
use proptest::prelude::*;

const HOUR: u64 = 3_600_000;

fn world(holders: usize, hits: u64, consistency: Consistency) -> World {
    World::new(holders, vec![limit("l", Algorithm::FixedWindow, hits, HOUR, consistency)])
}

fn user_is(user: &str) -> Match {
    Match { conditions: [("user".to_owned(), Condition::Equal(user.to_owned()))].into(), ..Match::default() }
}

/// Asks for one hit at a time, and returns how many of `count` pass.
fn ask(world: &mut World, holder: usize, count: u32) -> u64 {
    let before = world.granted(0);
    for _ in 0..count {
        world.check(holder, 0, 1);
        world.settle();
    }
    world.granted(0) - before
}

#[test]
fn a_batch_that_comes_after_its_time_charges_nothing() {
    let mut world = world(2, 10, Consistency::Exact);
    // The first answer teaches the holder the store's clock.
    assert_eq!(ask(&mut world, 0, 1), 1);
    world.check(0, 0, 4);
    let in_time = world.strand(0).unwrap();
    world.run_late(&in_time);
    assert_eq!(world.charged(0), 5, "what comes in time is charged, as nobody can know that it is not wanted");
    world.check(0, 0, 5);
    let late = world.strand(0).unwrap();
    world.advance(100_001);
    world.run_late(&late);
    assert_eq!(world.charged(0), 5, "its holder gave up a deadline ago");
    assert_eq!(ask(&mut world, 1, 10), 5);
}

#[test]
fn who_waits_behind_an_item_that_failed_is_sent_for() {
    let mut world = world(1, 10, Consistency::Exact);
    assert_eq!(ask(&mut world, 0, 1), 1);
    // Something else lies under the key for a while.
    let kept = std::mem::take(&mut world.store);
    for name in kept.keys() {
        let bucket = Bucket::new(Incarnation(1), StoreTime(0), Rate::default(), Revision(1));
        world.store.insert(name.clone(), Some(Record::Bucket(bucket)));
    }
    world.check(0, 0, 1);
    world.deliver(0, false);
    world.store = kept;
    world.edit(vec![limit("l", Algorithm::FixedWindow, 11, HOUR, Consistency::Exact)]);
    world.check(0, 0, 1);
    world.check(0, 0, 1);
    world.settle();
    assert_eq!((world.granted(0), world.refused), (3, 1));
}

#[test]
fn an_edit_frees_who_was_refused() {
    let mut world = world(1, 1, Consistency::Leased);
    assert_eq!(ask(&mut world, 0, 3), 1);
    world.edit(vec![limit("l", Algorithm::FixedWindow, 3, HOUR, Consistency::Leased)]);
    assert_eq!(ask(&mut world, 0, 5), 2, "a refusal is remembered under its own revision only");
}

#[test]
fn an_edit_forgets_nothing_of_a_window_that_still_counts() {
    let mut world = world(1, 10, Consistency::Exact);
    assert_eq!(ask(&mut world, 0, 8), 8);
    world.edit(vec![limit("l", Algorithm::FixedWindow, 9, HOUR, Consistency::Exact)]);
    // The key learns of its new limit while the store does not answer, and then nobody asks for it.
    world.check(0, 0, 1);
    world.refuse(0);
    (0..20).for_each(|_| world.advance(50_000));
    world.forget(true);
    assert_eq!(ask(&mut world, 0, 9), 1, "what it saw is back before anything is granted");
}

#[test]
fn tokens_taken_under_the_old_rules_are_not_spent_under_the_new() {
    let mut world = world(2, 100, Consistency::Leased);
    assert_eq!(ask(&mut world, 0, 30), 30);
    world.check(1, 0, 0);
    world.settle();
    assert!(world.charged(0) > 30, "the first holder has tokens in hand");
    world.edit(vec![limit("l", Algorithm::FixedWindow, 30, HOUR, Consistency::Leased)]);
    assert_eq!(ask(&mut world, 0, 5) + ask(&mut world, 1, 5), 0, "30 are used up");
    world.rest();
    assert_eq!(world.charged(0), 30, "what was in hand is back");
}

#[test]
fn an_edit_brings_tokens_back_from_a_quiet_key() {
    let mut world = world(1, 100, Consistency::Leased);
    assert_eq!(ask(&mut world, 0, 30), 30);
    world.edit(vec![limit("l", Algorithm::FixedWindow, 200, HOUR, Consistency::Leased)]);
    world.settle();
    assert_eq!(world.charged(0), 30, "at once, not when the lease ends");
}

#[test]
fn a_lease_that_was_on_its_way_during_an_edit_is_not_spent_under_the_new_rules() {
    let mut world = world(1, 100, Consistency::Leased);
    assert_eq!(ask(&mut world, 0, 29), 29);
    // Back to none in hand, so that the next check asks, and takes a lease.
    world.rest();
    world.check(0, 0, 1);
    world.deliver(0, false);
    world.edit(vec![limit("l", Algorithm::FixedWindow, 30, HOUR, Consistency::Leased)]);
    world.answer(0);
    assert!(world.charged(0) > 30, "a lease came under the old rules");
    assert_eq!(ask(&mut world, 0, 5), 0, "30 are used up");
}

#[test]
fn what_is_in_hand_goes_back_on_a_key_that_falls_quiet() {
    let mut world = world(1, 100, Consistency::Leased);
    assert_eq!(ask(&mut world, 0, 30), 30);
    assert!(world.charged(0) > 30);
    world.advance(LEASE_US + 1);
    world.settle();
    assert_eq!(world.charged(0), 30);
}

#[test]
fn a_batch_that_runs_twice_gives_back_once() {
    let mut world = world(1, 100, Consistency::Leased);
    assert_eq!(ask(&mut world, 0, 30), 30);
    assert!(world.charged(0) > 30);
    world.advance(LEASE_US + 1);
    world.deliver(0, true);
    world.settle();
    assert_eq!(world.charged(0), 30);
}

#[test]
fn a_token_does_not_outlive_its_cell() {
    let mut world = World::new(2, vec![limit("l", Algorithm::FixedWindow, 1000, 1000, Consistency::Leased)]);
    world.advance(900_000);
    assert_eq!(ask(&mut world, 0, 200), 200);
    assert!(world.charged(0) > 200, "the first holder has tokens of the old cell in hand");
    world.advance(150_000);
    let second = ask(&mut world, 1, 1000);
    let first = ask(&mut world, 0, 1000);
    assert!(second + first <= 1000, "{second} and {first} in one window");
}

#[test]
fn a_batch_that_comes_again_after_others_gives_back_once() {
    let mut world = world(2, 100, Consistency::Leased);
    assert_eq!(ask(&mut world, 0, 30), 30);
    world.advance(LEASE_US + 1);
    let first = world.strand(0).unwrap();
    world.run_late(&first);
    assert_eq!(world.charged(0), 30);
    assert_eq!(ask(&mut world, 1, 1), 1);
    let before = world.charged(0);
    world.run_late(&first);
    assert!(world.charged(0) >= before, "its tokens are back already");
}

#[derive(Clone, Debug)]
enum Step {
    Check(usize, u32),
    Deliver(usize),
    Answer(usize),
    Replicate,
    Fail { all: bool },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => (0usize..4, 1u32..4).prop_map(|(holder, hits)| Step::Check(holder, hits)),
        6 => (0usize..4).prop_map(Step::Deliver),
        6 => (0usize..4).prop_map(Step::Answer),
        2 => Just(Step::Replicate),
        1 => any::<bool>().prop_map(|all| Step::Fail { all }),
    ]
}

proptest! {
    #![proptest_config(crate::world::cases())]

    /// Failovers and restarts forget; whatever any holder was told is charged again once it was heard, although
    /// others charged meanwhile.
    #[test]
    fn nothing_stays_forgotten_that_a_holder_knows(
        holders in 1usize..5,
        consistency in prop::sample::select(vec![Consistency::Exact, Consistency::Leased]),
        steps in prop::collection::vec(step(), 1..80),
    ) {
        let mut world = world(holders, 1_000_000, consistency);
        for step in steps {
            match step {
                Step::Check(holder, hits) => world.check(holder % holders, 0, hits),
                Step::Deliver(holder) => world.deliver(holder % holders, false),
                Step::Answer(holder) => world.answer(holder % holders),
                Step::Replicate => world.replica = world.store.clone(),
                Step::Fail { all } => world.forget(all),
            }
        }
        world.rest();
        for holder in 0..holders {
            world.check(holder, 0, 1);
            world.settle();
        }
        world.rest();
        prop_assert!(world.charged(0) >= world.granted(0), "{} charged, {} granted", world.charged(0), world.granted(0));
    }
}

#[test]
fn a_check_that_another_limit_refuses_never_touches_a_bucket() {
    // 1,000 a second: what is charged and given back a millisecond later would be gone.
    let rules = vec![
        limit("bucket", Algorithm::TokenBucket, 1000, 1000, Consistency::Exact),
        limit("window", Algorithm::FixedWindow, 5, HOUR, Consistency::Exact),
    ];
    let mut world = World::new(1, rules);
    assert_eq!(ask(&mut world, 0, 5), 5);
    let missing = world.missing(0);
    assert_eq!(missing, 5);
    // Refusals are forgotten after a lease, so that the store is asked each time.
    for _ in 0..200 {
        world.advance(LEASE_US + 1);
        assert_eq!(ask(&mut world, 0, 1), 0);
        world.advance(1000);
        world.settle();
    }
    let bucket = world.store.iter().find_map(|(_, record)| match record {
        Some(Record::Bucket(bucket)) => Some(bucket.clone()),
        _ => None,
    });
    assert!(bucket.unwrap().last < StoreTime(crate::world::BEGIN + LEASE_US), "it was never asked again");
    // A window that grants lets the bucket speak, too.
    world.check(0, 1, 3);
    world.settle();
    assert_eq!((world.granted(1), world.missing(1)), (3, 3));
}

#[test]
fn a_deadline_between_window_and_bucket_leaves_nothing_charged() {
    let rules = vec![
        limit("bucket", Algorithm::TokenBucket, 10, HOUR, Consistency::Exact),
        limit("window", Algorithm::FixedWindow, 5, HOUR, Consistency::Exact),
    ];
    let mut world = World::new(1, rules);
    world.check(0, 0, 1);
    // The window has answered, and the bucket is about to be asked.
    world.deliver(0, false);
    world.answer(0);
    world.expire(0);
    world.rest();
    assert_eq!((world.granted(0), world.charged(0), world.missing(0)), (0, 0, 0));
}

#[test]
fn a_lease_pays_for_those_who_came_while_it_was_on_its_way() {
    let mut world = world(1, 1_000_000, Consistency::Leased);
    // Under load somebody always waits when an answer comes.
    for _ in 0..200 {
        (0..8).for_each(|_| world.check(0, 0, 1));
        world.deliver(0, false);
        (0..8).for_each(|_| world.check(0, 0, 1));
        world.answer(0);
        world.advance(1000);
    }
    let batches = world.holders[0].shard.stats().batches;
    assert!(batches < 50, "{batches} batches for 3200 checks");
    world.rest();
    assert_eq!((world.granted(0), world.charged(0)), (3200, 3200));
}

#[test]
fn who_leaves_a_bucket_s_queue_is_not_sent_whatever_stands_around_it() {
    // Only the first check asks a window, and so comes to the bucket that all share behind one that was asked later.
    let mut window = limit("window", Algorithm::FixedWindow, 9, HOUR, Consistency::Exact);
    window.matches = user_is("0");
    let mut bucket = limit("bucket", Algorithm::TokenBucket, 5, HOUR, Consistency::Exact);
    bucket.per = Vec::new();
    let mut world = World::new(1, vec![bucket, window]);
    world.check(0, 0, 4);
    world.deliver(0, false);
    world.check(0, 1, 1);
    world.answer(0);
    let _ = world.holders[0].shard.handle(Event::Cancel(Ticket(0)), NodeTime(world.now));
    world.check(0, 1, 3);
    world.settle();
    assert_eq!(world.granted(1), 4, "the four of the one that left are not in the way");
    world.rest();
    assert_eq!((world.granted(0), world.charged(0)), (0, 0));
}

#[test]
fn a_check_that_left_while_its_batch_was_late_is_not_sent_again() {
    let mut world = World::new(1, vec![limit("bucket", Algorithm::TokenBucket, 5, HOUR, Consistency::Exact)]);
    assert_eq!(ask(&mut world, 0, 1), 1);
    world.check(0, 0, 4);
    world.depart(0);
    world.expire(0);
    world.advance(150_000);
    world.deliver(0, false);
    world.answer(0);
    world.check(0, 0, 3);
    world.settle();
    assert_eq!(world.granted(0), 4, "4 tokens are free, and nobody waits for the others");
}

#[derive(Clone, Copy, Debug)]
enum Move {
    Check(u8, u32),
    Depart,
    Deliver,
    Answer,
    Expire(usize),
    Advance(u64),
}

fn any_move() -> impl Strategy<Value = Move> {
    prop_oneof![
        6 => (0u8..2, 1u32..4).prop_map(|(user, hits)| Move::Check(user, hits)),
        4 => Just(Move::Depart),
        4 => Just(Move::Deliver),
        4 => Just(Move::Answer),
        3 => (0usize..8).prop_map(Move::Expire),
        2 => prop_oneof![0u64..20_000, Just(150_000)].prop_map(Move::Advance),
    ]
}

proptest! {
    #![proptest_config(crate::world::cases())]

    /// Batches come late, and callers leave one by one: the world holds that nothing is asked for on behalf of who has left.
    #[test]
    fn nothing_is_asked_for_on_behalf_of_who_has_left(
        knows_the_clock in any::<bool>(),
        moves in prop::collection::vec(any_move(), 1..60),
    ) {
        // Only one user's checks ask a window first, so that they come to the bucket behind checks that were asked later.
        let mut window = limit("window", Algorithm::FixedWindow, 1000, HOUR, Consistency::Exact);
        window.matches = user_is("0");
        let mut bucket = limit("bucket", Algorithm::TokenBucket, 1000, HOUR, Consistency::Exact);
        bucket.per = Vec::new();
        let rules = vec![bucket, window];
        let mut world =
            if knows_the_clock { World::new(1, rules) } else { World::without_clock(1, rules, 1000) };
        for one in moves {
            match one {
                Move::Check(user, hits) => world.check(0, user, hits),
                Move::Depart => world.depart(0),
                Move::Deliver => world.deliver(0, false),
                Move::Answer => world.answer(0),
                Move::Expire(nth) => world.expire_one(0, nth),
                Move::Advance(micros) => world.advance(micros),
            }
        }
        world.rest();
    }
}

#[test]
fn a_window_without_its_store_speaks_before_the_bucket_is_asked() {
    let bucket = limit("bucket", Algorithm::TokenBucket, 1000, 1000, Consistency::Exact);
    let window = limit("window", Algorithm::FixedWindow, 9, HOUR, Consistency::Exact);
    let mut world = World::new(1, vec![bucket, window]);
    world.check(0, 0, 1);
    world.refuse(0);
    world.settle();
    // `on_store_failure` of this world is deny.
    assert_eq!((world.granted(0), world.store.len()), (0, 0), "the bucket was never asked");
}

#[test]
fn a_token_is_not_spent_past_its_time_though_nobody_has_looked_yet() {
    let mut world = world(1, 1_000_000, Consistency::Leased);
    for _ in 0..100 {
        ask(&mut world, 0, 1);
        world.advance(1000);
    }
    let before = world.granted(0);
    world.check(0, 0, 1);
    assert_eq!(world.granted(0), before + 1, "paid from the tokens in hand");
    // Between two ticks the lease ends.
    world.now += LEASE_US + 1;
    world.check(0, 0, 1);
    assert_eq!(world.granted(0), before + 1, "the store is asked");
    world.settle();
    assert_eq!(world.granted(0), before + 2);
}
