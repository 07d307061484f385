//! `on_store_failure: local`: the hits that holders admit without the store are bounded. They are charged when the
//! store is available again.

use crate::rules::limit;
use crate::world::{LEASE_US, World};
use limiter::counter::{Cell, Entry, Grid, Part};
use limiter::gossip::Report;
use limiter::rules::{Algorithm, Consistency, GlobalStrategy, Limit, OnPartition, OnStoreFailure, Scope};
use limiter::{Event, Incarnation, RegionNumber, Regions};
use proptest::prelude::*;

/// Longer than any test, in milliseconds.
const MONTH: u64 = 30 * 86_400_000;

fn local(name: &str, algorithm: Algorithm, hits: u64, window_ms: u64) -> Limit {
    Limit { on_store_failure: OnStoreFailure::Local, ..limit(name, algorithm, hits, window_ms, Consistency::Exact) }
}

/// Returns a world in which each holder had one reply from the store.
fn world(holders: usize, limits: Vec<Limit>) -> World {
    let mut world = World::new(holders, limits);
    for holder in 0..holders {
        world.check(holder, 0, 0);
        world.deliver_all();
    }
    world
}

/// Sends `count` checks of one hit each while the store is unavailable. Returns the number of admitted hits.
fn check_without_store(world: &mut World, holder: usize, count: u32) -> u64 {
    let before = world.admitted_hits(0);
    for _ in 0..count {
        world.check(holder, 0, 1);
        world.fail_to_send(holder);
    }
    world.admitted_hits(0) - before
}

/// Sends `count` checks of one hit each while the store is available. Returns the number of admitted hits.
fn check_with_store(world: &mut World, holder: usize, count: u32) -> u64 {
    let before = world.admitted_hits(0);
    for _ in 0..count {
        world.check(holder, 0, 1);
        world.deliver_all();
    }
    world.admitted_hits(0) - before
}

#[test]
fn a_holder_admits_its_share_and_reports_the_debt() {
    for algorithm in [Algorithm::FixedWindow, Algorithm::SlidingWindow, Algorithm::RollingWindow] {
        let mut world = world(3, vec![local("l", algorithm, 30, MONTH)]);
        assert_eq!(check_with_store(&mut world, 0, 6), 6);
        assert_eq!(check_without_store(&mut world, 0, 20), 8, "a third of the 24 that are left as far as it knows");
        assert_eq!(check_without_store(&mut world, 1, 20), 10, "a third of 30: it does not know of the six");
        world.advance(1000);
        world.deliver_all();
        assert_eq!(world.charged_hits(0), 24, "{algorithm:?}: the debt of an idle key is reported, too");
        assert_eq!(check_with_store(&mut world, 2, 20), 6);
    }
}

#[test]
fn a_holder_shares_out_the_part_of_its_region_less_what_its_region_used() {
    let scope = Scope::Global(GlobalStrategy::Gossip { on_partition: OnPartition::Open });
    for (heard, own, left, share) in [(24, 6, 30, 8), (60, 0, 0, 0)] {
        let mut world = world(1, vec![Limit { scope, ..local("l", Algorithm::FixedWindow, 60, MONTH) }]);
        let part = Part { weight: 1, weights: 2 };
        let regions = Regions { part, floor_thousandths: 0, partitioned_since: None, rights: None };
        let now = world.node_now(0);
        let _ = world.holders[0].shard.handle(Event::Regions(Some(regions)), now);
        // What another region has used.
        let key = world.store.keys().next().unwrap().clone();
        let entries = vec![Entry { incarnation: Incarnation(1 << 30), charged: heard, returned: 0 }];
        let cells = [Cell { start_ms: world.store_now() / 1000 / MONTH * MONTH, entries }].as_slice().into();
        let report = Report { key, grid: Grid::Fixed { width_ms: MONTH }, cells }.import(RegionNumber(100)).unwrap();
        let mut batch = world.holders[0].delivered.last().unwrap().clone();
        batch.items = vec![report];
        world.run_batch(&batch);
        assert_eq!(check_with_store(&mut world, 0, 6), own);
        let remaining = world.last_decision.as_ref().unwrap().limits[0].remaining;
        assert_eq!(remaining, Some(left), "the holder knows what the other region used");
        assert_eq!(check_without_store(&mut world, 0, 20), share, "a third of the half of 60, less its own six");
    }
}

#[test]
fn an_answer_without_the_store_says_what_is_left_of_the_share() {
    for algorithm in
        [Algorithm::FixedWindow, Algorithm::SlidingWindow, Algorithm::RollingWindow, Algorithm::TokenBucket]
    {
        let mut world = world(1, vec![local("l", algorithm, 30, MONTH)]);
        // The holder's share is a third.
        for (hits, allowed, left) in [(3, true, 7), (8, false, 7), (0, true, 7), (7, true, 0), (0, false, 0)] {
            world.check(0, 0, hits);
            world.fail_to_send(0);
            let decision = world.last_decision.take().unwrap();
            assert!(decision.degraded);
            assert_eq!(
                (decision.allowed, decision.limits[0].remaining),
                (allowed, Some(left)),
                "{algorithm:?}: {hits} hits"
            );
        }
    }
}

#[test]
fn a_confirmed_debt_is_not_restored_by_a_holder_that_saw_it_before() {
    let mut world = world(2, vec![local("l", Algorithm::FixedWindow, 1000, MONTH)]);
    assert_eq!(check_without_store(&mut world, 0, 5), 5);
    world.advance(1000);
    // The debt is reported. The other holder sees it before it is confirmed.
    world.deliver_batch(0, false);
    world.deliver_reply(0);
    world.check(1, 0, 1);
    world.deliver_batch(1, false);
    world.deliver_reply(1);
    assert_eq!(world.unconfirmed_debts(), 1);
    world.deliver_batch(0, false);
    world.deliver_reply(0);
    assert_eq!((world.charged_hits(0), world.unconfirmed_debts()), (6, 0));
    assert_eq!(check_with_store(&mut world, 1, 3), 3);
    assert_eq!((world.charged_hits(0), world.unconfirmed_debts()), (9, 0));
}

#[test]
fn a_holder_whose_clock_jumps_forward_keeps_its_debts() {
    let mut world = world(2, vec![local("l", Algorithm::FixedWindow, 30, MONTH)]);
    assert_eq!(check_without_store(&mut world, 0, 5), 5);
    world.advance_holder_clock(0, 2 * MONTH * 1000);
    (0..5).for_each(|_| world.advance(1000));
    world.deliver_all();
    assert_eq!(world.charged_hits(0), 5);
    assert_eq!(check_with_store(&mut world, 1, 40), 25);
}

#[test]
fn repeated_outages_add_no_further_share() {
    for algorithm in [Algorithm::FixedWindow, Algorithm::RollingWindow, Algorithm::TokenBucket] {
        let mut world = world(1, vec![local("l", algorithm, 30, MONTH)]);
        assert_eq!(check_without_store(&mut world, 0, 20), 10);
        for _ in 0..5 {
            world.advance(1000);
            world.deliver_all();
            assert_eq!(check_without_store(&mut world, 0, 20), 0, "{algorithm:?}");
        }
        assert_eq!(check_with_store(&mut world, 0, 40), 20);
    }
}

#[test]
fn a_reported_debt_counts_once() {
    let mut world = world(1, vec![local("l", Algorithm::FixedWindow, 30, MONTH)]);
    assert_eq!(check_without_store(&mut world, 0, 4), 4);
    world.advance(1000);
    world.deliver_all();
    assert_eq!(check_with_store(&mut world, 0, 1), 1);
    assert_eq!(check_without_store(&mut world, 0, 20), 5, "a third of the 29 that others left, minus the four");
}

#[test]
fn the_share_of_a_bucket_is_part_of_the_tokens_last_seen() {
    let mut world = world(1, vec![local("l", Algorithm::TokenBucket, 30, MONTH)]);
    assert_eq!(check_with_store(&mut world, 0, 24), 24);
    assert_eq!(check_without_store(&mut world, 0, 20), 2, "a third of the six that are left");
    world.advance(1000);
    world.deliver_all();
    assert_eq!(check_with_store(&mut world, 0, 20), 4);
}

#[test]
fn idle_keys_with_debts_are_kept() {
    let mut world = World::new(1, vec![local("l", Algorithm::FixedWindow, 30, MONTH)]);
    let check_all_users = |world: &mut World, hits| {
        for user in 0..250 {
            world.check(0, user, hits);
            world.fail_to_send(0);
        }
    };
    check_all_users(&mut world, 10);
    assert_eq!(world.admissions.len(), 250);
    for _ in 0..50 {
        world.advance(1000);
    }
    check_all_users(&mut world, 1);
    assert_eq!(world.admissions.len(), 250, "a key that was dropped would have a further share");
    for _ in 0..10 {
        world.advance(1000);
        world.deliver_all();
    }
    assert_eq!(world.charged_hits_where(|_| true), 2500);
}

#[test]
fn a_new_window_has_a_new_share() {
    let mut world = world(1, vec![local("l", Algorithm::FixedWindow, 30, 1000)]);
    assert_eq!(check_without_store(&mut world, 0, 20), 10);
    world.advance(1_000_000);
    assert_eq!(check_without_store(&mut world, 0, 20), 10);
    world.advance(3_000_000);
    world.deliver_all();
    assert_eq!(check_with_store(&mut world, 0, 40), 30, "debts of old windows do not count");
}

#[test]
fn debts_leave_a_rolling_window_one_cell_at_a_time() {
    let mut world = world(1, vec![local("l", Algorithm::RollingWindow, 30, 1000)]);
    let mut admitted = Vec::new();
    for _ in 0..16 {
        admitted.push(check_without_store(&mut world, 0, 3));
        world.advance(250_000);
    }
    let max = admitted.windows(4).map(|w| w.iter().sum::<u64>()).max();
    assert!(max.is_some_and(|max| (7..=10).contains(&max)), "{admitted:?}: at most one share in any window length");
}

#[test]
fn a_check_that_another_limit_denies_leaves_no_debt() {
    let rules =
        vec![local("wide", Algorithm::FixedWindow, 30, MONTH), local("narrow", Algorithm::SlidingWindow, 2, MONTH)];
    let mut world = world(1, rules);
    assert_eq!(check_without_store(&mut world, 0, 20), 0, "a third of two is less than one hit");
    world.advance(1000);
    world.deliver_all();
    assert_eq!(world.charged_hits(0), 0);
}

#[test]
fn a_check_that_expires_is_admitted_from_the_share() {
    let mut world = world(1, vec![local("l", Algorithm::FixedWindow, 30, MONTH)]);
    for _ in 0..20 {
        world.check(0, 0, 1);
        world.expire_all(0);
    }
    assert_eq!(world.admitted_hits(0), 10);
    world.deliver_all();
    world.advance(1000);
    world.deliver_all();
    assert_eq!(world.charged_hits(0), 10);
}

#[test]
fn a_denial_during_an_outage_is_not_remembered() {
    let mut world = world(1, vec![local("l", Algorithm::FixedWindow, 30, MONTH)]);
    assert_eq!(check_without_store(&mut world, 0, 20), 10);
    assert_eq!(check_with_store(&mut world, 0, 40), 20, "the store is available again and grants the rest");
}

#[derive(Clone, Debug)]
enum Step {
    Check(usize, u32),
    DeliverBatch(usize),
    DeliverReply(usize),
    LoseBatch(usize, bool),
    FailToSend(usize),
    Expire(usize),
    Advance(u64),
    LoseData,
}

fn step() -> impl Strategy<Value = Step> {
    let holder = || 0usize..4;
    prop_oneof![
        12 => (holder(), prop_oneof![8 => 1u32..4, 1 => Just(0), 1 => Just(u32::MAX)]).prop_map(|(h, hits)| Step::Check(h, hits)),
        3 => holder().prop_map(Step::DeliverBatch),
        3 => holder().prop_map(Step::DeliverReply),
        3 => (holder(), any::<bool>()).prop_map(|(holder, charged)| Step::LoseBatch(holder, charged)),
        6 => holder().prop_map(Step::FailToSend),
        2 => holder().prop_map(Step::Expire),
        3 => (0u64..400_000).prop_map(Step::Advance),
    ]
}

proptest! {
    #![proptest_config(crate::world::proptest_config())]

    /// During any outages at most one further limit is admitted. All of it is charged when the store is available
    /// again.
    #[test]
    fn outages_admit_at_most_one_further_limit_and_all_of_it_is_charged(
        algorithm in prop::sample::select(vec![
            Algorithm::FixedWindow, Algorithm::SlidingWindow, Algorithm::RollingWindow, Algorithm::TokenBucket,
        ]),
        leased in any::<bool>(),
        holders in 1usize..5,
        hits in prop_oneof![0u64..13, Just(40)],
        loses_data in any::<bool>(),
        steps in prop::collection::vec(prop_oneof![30 => step(), 1 => Just(Step::LoseData)], 1..100),
    ) {
        let consistency = (leased && algorithm != Algorithm::TokenBucket).then_some(Consistency::Leased);
        let rule = local("l", algorithm, hits, MONTH);
        let mut world = world(holders, vec![Limit { consistency: consistency.or(rule.consistency), ..rule }]);
        // Only a single holder knows all data that the store lost.
        let loses_data = loses_data && holders == 1;
        // Charges whose checks had expired or whose replies were lost make a bucket look empty when debts are reported.
        // Debts that do not fit into the bucket are dropped.
        let exact = !steps.iter().any(|step| matches!(step, Step::Expire(_) | Step::LoseBatch(..)));
        for step in steps {
            match step {
                Step::Check(holder, hits) => world.check(holder % holders, 0, hits),
                Step::DeliverBatch(holder) => world.deliver_batch(holder % holders, false),
                Step::DeliverReply(holder) => world.deliver_reply(holder % holders),
                Step::LoseBatch(holder, charged) => world.lose_batch(holder % holders, charged),
                Step::FailToSend(holder) => world.fail_to_send(holder % holders),
                Step::Expire(holder) => world.expire_all(holder % holders),
                Step::Advance(micros) => world.advance(micros),
                Step::LoseData if loses_data => world.lose_data(true),
                Step::LoseData => {}
            }
        }
        let sum = |degraded: bool| -> u64 {
            world.admissions.iter().filter(|a| a.degraded == degraded).map(|a| a.hits).sum()
        };
        prop_assert!(sum(true) <= hits, "{} hits admitted without the store, limit {hits}", sum(true));
        prop_assert!(sum(false) <= hits, "{} hits admitted by the store, limit {hits}", sum(false));
        world.deliver_all();
        world.advance(LEASE_US + 1);
        world.end_leases();
        let admitted = world.admitted_hits(0);
        if loses_data {
            // The next check would restore the lost data, and there is none.
        } else if algorithm == Algorithm::TokenBucket {
            let missing = world.missing_hits(0);
            prop_assert!(!exact || missing >= admitted.min(hits), "{missing} missing, {admitted} admitted");
        } else {
            let charged = world.charged_hits(0);
            prop_assert!(charged >= admitted, "{charged} charged, {admitted} admitted");
            let max = admitted + world.uncertain_hits;
            prop_assert!(leased || charged <= max, "{charged} charged, {max} admitted or uncertain");
        }
    }
}

#[test]
fn a_failing_store_is_probed_with_one_key_however_many_keys_have_debts() {
    for fail in [World::fail_to_send, World::fail_all_items] {
        let mut world = world(1, vec![local("l", Algorithm::FixedWindow, 30, MONTH)]);
        for user in 2..200 {
            world.check(0, user, 1);
            fail(&mut world, 0);
        }
        let items = |world: &World| world.holders[0].shard.stats().items;
        let before = items(&world);
        for _ in 0..10 {
            world.advance(50_000);
            fail(&mut world, 0);
        }
        assert!((5..=10).contains(&(items(&world) - before)), "{} items in ten ticks", items(&world) - before);
        // The store is available again: all debts are reported.
        for _ in 0..10 {
            world.advance(50_000);
            world.deliver_all();
        }
        assert_eq!(world.charged_hits_where(|_| true), 198);
    }
}

#[test]
fn a_debt_is_not_dated_by_a_wrong_wall_clock() {
    for algorithm in
        [Algorithm::FixedWindow, Algorithm::SlidingWindow, Algorithm::RollingWindow, Algorithm::TokenBucket]
    {
        // The second holder's wall clock is ahead of the store's clock, and it had no reply from the store.
        let mut world = World::with_unknown_clock(2, vec![local("l", algorithm, 30, 1_000_000)], 1000);
        world.deliver_batch(0, false);
        world.deliver_reply(0);
        for _ in 0..6 {
            world.check(0, 0, 1);
            world.deliver_batch(0, false);
            world.deliver_reply(0);
        }
        assert_eq!(world.admitted_hits(0), 6);
        assert_eq!(check_without_store(&mut world, 1, 20), 10);
        world.advance(1000);
        world.deliver_all();
        world.advance(1000);
        world.deliver_all();
        let max = if algorithm == Algorithm::TokenBucket { 15 } else { 14 };
        assert!(
            (14..=max).contains(&check_with_store(&mut world, 0, 40)),
            "{algorithm:?}: the debt counts, and no new window began"
        );
        world.advance(3_000_000_000);
        world.deliver_all();
        assert_eq!(check_with_store(&mut world, 0, 40), 30, "{algorithm:?}: the debt ends with its window");
    }
}

#[test]
fn a_bucket_debt_that_the_refill_has_covered_is_not_charged() {
    let mut world = world(1, vec![local("l", Algorithm::TokenBucket, 30, 1000)]);
    assert_eq!(check_without_store(&mut world, 0, 20), 10, "a third of the bucket");
    // The whole bucket refills these hits in a third of a second. This holder's part of it refills them in one second.
    world.advance(400_000);
    world.deliver_all();
    assert_eq!(world.missing_hits(0), 0);
    assert_eq!(check_with_store(&mut world, 0, 40), 30);
}
