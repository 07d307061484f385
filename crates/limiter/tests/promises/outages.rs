//! `on_store_failure: local`: what holders admit by themselves is bounded, and told to the store when it is back.

use crate::world::{LEASE_US, World, limit};
use limiter::rules::{Algorithm, Consistency, Limit, OnStoreFailure};
use proptest::prelude::*;

/// Longer than any test.
const MONTH: u64 = 30 * 86_400_000;

fn local(name: &str, algorithm: Algorithm, hits: u64, window_ms: u64) -> Limit {
    Limit { on_store_failure: OnStoreFailure::Local, ..limit(name, algorithm, hits, window_ms, Consistency::Exact) }
}

/// Each holder hears the store's clock once.
fn world(holders: usize, limits: Vec<Limit>) -> World {
    let mut world = World::new(holders, limits);
    for holder in 0..holders {
        world.check(holder, 0, 0);
        world.settle();
    }
    world
}

/// Asks for one hit at a time while the store is not reached, and returns how many of `count` pass.
fn ask_alone(world: &mut World, holder: usize, count: u32) -> u64 {
    let before = world.granted(0);
    for _ in 0..count {
        world.check(holder, 0, 1);
        world.refuse(holder);
    }
    world.granted(0) - before
}

fn ask(world: &mut World, holder: usize, count: u32) -> u64 {
    let before = world.granted(0);
    for _ in 0..count {
        world.check(holder, 0, 1);
        world.settle();
    }
    world.granted(0) - before
}

#[test]
fn a_holder_admits_its_share_and_reports_it() {
    for algorithm in [Algorithm::FixedWindow, Algorithm::SlidingWindow, Algorithm::RollingWindow] {
        let mut world = world(3, vec![local("l", algorithm, 30, MONTH)]);
        assert_eq!(ask(&mut world, 0, 6), 6);
        assert_eq!(ask_alone(&mut world, 0, 20), 8, "a third of the 24 that it knows to be left");
        assert_eq!(ask_alone(&mut world, 1, 20), 10, "a third of 30: it has not heard of the six");
        world.advance(1000);
        world.settle();
        assert_eq!(world.charged(0), 24, "{algorithm:?}: a quiet key is reported too");
        assert_eq!(ask(&mut world, 2, 20), 6);
    }
}

#[test]
fn a_confirmed_debt_is_not_brought_back_by_who_saw_it_before() {
    let mut world = world(2, vec![local("l", Algorithm::FixedWindow, 1000, MONTH)]);
    assert_eq!(ask_alone(&mut world, 0, 5), 5);
    world.advance(1000);
    // It is reported, and the other holder sees it before it is confirmed.
    world.deliver(0, false);
    world.answer(0);
    world.check(1, 0, 1);
    world.deliver(1, false);
    world.answer(1);
    assert_eq!(world.unconfirmed(), 1);
    world.deliver(0, false);
    world.answer(0);
    assert_eq!((world.charged(0), world.unconfirmed()), (6, 0));
    assert_eq!(ask(&mut world, 1, 3), 3);
    assert_eq!((world.charged(0), world.unconfirmed()), (9, 0));
}

#[test]
fn a_holder_whose_clock_leaps_forward_still_owes() {
    let mut world = world(2, vec![local("l", Algorithm::FixedWindow, 30, MONTH)]);
    assert_eq!(ask_alone(&mut world, 0, 5), 5);
    world.leap_holder(0, 2 * MONTH * 1000);
    (0..5).for_each(|_| world.advance(1000));
    world.settle();
    assert_eq!(world.charged(0), 5);
    assert_eq!(ask(&mut world, 1, 40), 25);
}

#[test]
fn an_outage_that_comes_and_goes_adds_no_further_share() {
    for algorithm in [Algorithm::FixedWindow, Algorithm::RollingWindow, Algorithm::TokenBucket] {
        let mut world = world(1, vec![local("l", algorithm, 30, MONTH)]);
        assert_eq!(ask_alone(&mut world, 0, 20), 10);
        for _ in 0..5 {
            world.advance(1000);
            world.settle();
            assert_eq!(ask_alone(&mut world, 0, 20), 0, "{algorithm:?}");
        }
        assert_eq!(ask(&mut world, 0, 40), 20);
    }
}

#[test]
fn what_was_reported_counts_once() {
    let mut world = world(1, vec![local("l", Algorithm::FixedWindow, 30, MONTH)]);
    assert_eq!(ask_alone(&mut world, 0, 4), 4);
    world.advance(1000);
    world.settle();
    assert_eq!(ask(&mut world, 0, 1), 1);
    assert_eq!(ask_alone(&mut world, 0, 20), 5, "a third of the 29 that others left, less the four");
}

#[test]
fn a_bucket_is_shared_as_full_as_it_was_seen() {
    let mut world = world(1, vec![local("l", Algorithm::TokenBucket, 30, MONTH)]);
    assert_eq!(ask(&mut world, 0, 24), 24);
    assert_eq!(ask_alone(&mut world, 0, 20), 2, "a third of the six that are left");
    world.advance(1000);
    world.settle();
    assert_eq!(ask(&mut world, 0, 20), 4);
}

#[test]
fn quiet_keys_that_owe_are_not_forgotten() {
    let mut world = World::new(1, vec![local("l", Algorithm::FixedWindow, 30, MONTH)]);
    let ask_all = |world: &mut World, hits| {
        for user in 0..250 {
            world.check(0, user, hits);
            world.refuse(0);
        }
    };
    ask_all(&mut world, 10);
    assert_eq!(world.admitted.len(), 250);
    for _ in 0..50 {
        world.advance(1000);
    }
    ask_all(&mut world, 1);
    assert_eq!(world.admitted.len(), 250, "a key that is forgotten has a further share");
    for _ in 0..10 {
        world.advance(1000);
        world.settle();
    }
    assert_eq!(world.charged_to(|_| true), 2500);
}

#[test]
fn a_new_window_has_a_new_share() {
    let mut world = world(1, vec![local("l", Algorithm::FixedWindow, 30, 1000)]);
    assert_eq!(ask_alone(&mut world, 0, 20), 10);
    world.advance(1_000_000);
    assert_eq!(ask_alone(&mut world, 0, 20), 10);
    world.advance(3_000_000);
    world.settle();
    assert_eq!(ask(&mut world, 0, 40), 30, "debts of old windows do not count");
}

#[test]
fn a_rolling_window_forgets_debts_one_cell_at_a_time() {
    let mut world = world(1, vec![local("l", Algorithm::RollingWindow, 30, 1000)]);
    let mut admitted = Vec::new();
    for _ in 0..16 {
        admitted.push(ask_alone(&mut world, 0, 3));
        world.advance(250_000);
    }
    let most = admitted.windows(4).map(|w| w.iter().sum::<u64>()).max();
    assert!(most.is_some_and(|most| (7..=10).contains(&most)), "{admitted:?}: at most a share in any window's length");
}

#[test]
fn who_is_refused_by_another_limit_owes_nothing() {
    let rules =
        vec![local("wide", Algorithm::FixedWindow, 30, MONTH), local("narrow", Algorithm::SlidingWindow, 2, MONTH)];
    let mut world = world(1, rules);
    assert_eq!(ask_alone(&mut world, 0, 20), 0, "a third of two is none");
    world.advance(1000);
    world.settle();
    assert_eq!(world.charged(0), 0);
}

#[test]
fn a_caller_whose_patience_ends_is_admitted_from_the_share() {
    let mut world = world(1, vec![local("l", Algorithm::FixedWindow, 30, MONTH)]);
    for _ in 0..20 {
        world.check(0, 0, 1);
        world.expire(0);
    }
    assert_eq!(world.granted(0), 10);
    world.settle();
    world.advance(1000);
    world.settle();
    assert_eq!(world.charged(0), 10);
}

#[test]
fn a_refusal_in_an_outage_is_not_remembered() {
    let mut world = world(1, vec![local("l", Algorithm::FixedWindow, 30, MONTH)]);
    assert_eq!(ask_alone(&mut world, 0, 20), 10);
    assert_eq!(ask(&mut world, 0, 40), 20, "the store is back, and has the rest");
}

#[derive(Clone, Debug)]
enum Step {
    Check(usize, u32),
    Deliver(usize),
    Answer(usize),
    Lose(usize, bool),
    Refuse(usize),
    Expire(usize),
    Advance(u64),
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    let holder = || 0usize..4;
    prop_oneof![
        12 => (holder(), prop_oneof![8 => 1u32..4, 1 => Just(0), 1 => Just(u32::MAX)]).prop_map(|(h, hits)| Step::Check(h, hits)),
        3 => holder().prop_map(Step::Deliver),
        3 => holder().prop_map(Step::Answer),
        3 => (holder(), any::<bool>()).prop_map(|(holder, charged)| Step::Lose(holder, charged)),
        6 => holder().prop_map(Step::Refuse),
        2 => holder().prop_map(Step::Expire),
        3 => (0u64..400_000).prop_map(Step::Advance),
    ]
}

proptest! {
    #![proptest_config(crate::world::cases())]

    /// Whatever comes and goes: at most one further limit, and all of it is charged when the store is back.
    #[test]
    fn an_outage_adds_at_most_one_limit_and_is_reported(
        algorithm in prop::sample::select(vec![
            Algorithm::FixedWindow, Algorithm::SlidingWindow, Algorithm::RollingWindow, Algorithm::TokenBucket,
        ]),
        leased in any::<bool>(),
        holders in 1usize..5,
        hits in prop_oneof![0u64..13, Just(40)],
        forgets in any::<bool>(),
        steps in prop::collection::vec(prop_oneof![30 => step(), 1 => Just(Step::Forget)], 1..100),
    ) {
        let consistency = (leased && algorithm != Algorithm::TokenBucket).then_some(Consistency::Leased);
        let rule = local("l", algorithm, hits, MONTH);
        let mut world = world(holders, vec![Limit { consistency: consistency.or(rule.consistency), ..rule }]);
        // What a store forgets is known in full to a lone holder only.
        let forgets = forgets && holders == 1;
        // What the store charged and nobody waited for makes a bucket look empty when it is told of debts: those that
        // do not fit are let go.
        let surely = !steps.iter().any(|step| matches!(step, Step::Expire(_) | Step::Lose(..)));
        for step in steps {
            match step {
                Step::Check(holder, hits) => world.check(holder % holders, 0, hits),
                Step::Deliver(holder) => world.deliver(holder % holders, false),
                Step::Answer(holder) => world.answer(holder % holders),
                Step::Lose(holder, charged) => world.lose(holder % holders, charged),
                Step::Refuse(holder) => world.refuse(holder % holders),
                Step::Expire(holder) => world.expire(holder % holders),
                Step::Advance(micros) => world.advance(micros),
                Step::Forget if forgets => world.forget(true),
                Step::Forget => {}
            }
        }
        let sum = |degraded: bool| -> u64 {
            world.admitted.iter().filter(|a| a.degraded == degraded).map(|a| a.hits).sum()
        };
        prop_assert!(sum(true) <= hits, "{} without the store, limit {hits}", sum(true));
        prop_assert!(sum(false) <= hits, "{} by the store, limit {hits}", sum(false));
        world.settle();
        world.advance(LEASE_US + 1);
        world.rest();
        let granted = world.granted(0);
        if forgets {
            // A store that forgot is told with the next check, and there is none.
        } else if algorithm == Algorithm::TokenBucket {
            prop_assert!(!surely || world.missing(0) >= granted.min(hits), "{} missing, {granted} granted", world.missing(0));
        } else {
            prop_assert!(world.charged(0) >= granted, "{} charged, {granted} granted", world.charged(0));
            let most = granted + world.lost;
            prop_assert!(leased || world.charged(0) <= most, "{} charged, {most} granted or lost", world.charged(0));
        }
    }
}

#[test]
fn a_store_that_is_gone_or_serves_no_key_is_tried_with_one_key_however_many_owe() {
    for in_vain in [World::refuse, World::serve_none] {
        let mut world = world(1, vec![local("l", Algorithm::FixedWindow, 30, MONTH)]);
        for user in 2..200 {
            world.check(0, user, 1);
            in_vain(&mut world, 0);
        }
        let items = |world: &World| world.holders[0].shard.stats().items;
        let before = items(&world);
        for _ in 0..10 {
            world.advance(50_000);
            in_vain(&mut world, 0);
        }
        assert!((5..=10).contains(&(items(&world) - before)), "{} items in ten ticks", items(&world) - before);
        // It is back: everything is told.
        for _ in 0..10 {
            world.advance(50_000);
            world.settle();
        }
        assert_eq!(world.charged_to(|_| true), 198);
    }
}

#[test]
fn a_wall_clock_that_is_years_off_says_nothing_about_when_a_debt_was_made() {
    for algorithm in
        [Algorithm::FixedWindow, Algorithm::SlidingWindow, Algorithm::RollingWindow, Algorithm::TokenBucket]
    {
        // The second holder's wall clock is ahead of the store's, and it has never heard from it.
        let mut world = World::without_clock(2, vec![local("l", algorithm, 30, 1_000_000)], 1000);
        world.deliver(0, false);
        world.answer(0);
        for _ in 0..6 {
            world.check(0, 0, 1);
            world.deliver(0, false);
            world.answer(0);
        }
        assert_eq!(world.granted(0), 6);
        assert_eq!(ask_alone(&mut world, 1, 20), 10);
        world.advance(1000);
        world.settle();
        world.advance(1000);
        world.settle();
        let most = if algorithm == Algorithm::TokenBucket { 15 } else { 14 };
        assert!(
            (14..=most).contains(&ask(&mut world, 0, 40)),
            "{algorithm:?}: the debt counts, and no other window began"
        );
        world.advance(3_000_000_000);
        world.settle();
        assert_eq!(ask(&mut world, 0, 40), 30, "{algorithm:?}: and it ends with its window");
    }
}

#[test]
fn a_bucket_is_not_charged_for_what_its_refill_has_absorbed() {
    let mut world = world(1, vec![local("l", Algorithm::TokenBucket, 30, 1000)]);
    assert_eq!(ask_alone(&mut world, 0, 20), 10, "a third of it");
    // The whole bucket has these back in a third of a second, this holder's part in a whole one.
    world.advance(400_000);
    world.settle();
    assert_eq!(world.missing(0), 0);
    assert_eq!(ask(&mut world, 0, 40), 30);
}
