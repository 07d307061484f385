//! Limits of up to 20 hits: a client that spaces its requests well is never denied, and a client that asks without
//! pause is admitted nearly what the limit says.

use proptest::prelude::*;

use crate::rules::limit;
use crate::world::{World, proptest_config};
use limiter::Charging;
use limiter::counter::MAX_LOGGED_LIMIT;
use limiter::rules::{Algorithm, Consistency, Limit};

const ALGORITHMS: [Algorithm; 4] =
    [Algorithm::SlidingWindow, Algorithm::RollingWindow, Algorithm::FixedWindow, Algorithm::TokenBucket];

/// A client of one limit.
#[derive(Clone, Debug)]
struct Client {
    limit: Limit,
    hits: u64,
    window_us: u64,
    /// When it begins, in microseconds after the beginning of the world.
    begins_at: u64,
}

fn client() -> impl Strategy<Value = Client> {
    let windows = prop_oneof![250u64..2000, Just(60_000), Just(3_600_000), Just(86_400_000)];
    (
        prop::sample::select(ALGORITHMS.to_vec()),
        prop::sample::select(vec![Consistency::Exact, Consistency::Leased]),
        1..=MAX_LOGGED_LIMIT,
        windows,
        2u32..=20,
        any::<u64>(),
    )
        .prop_map(|(algorithm, consistency, hits, window_ms, cells, at)| {
            let cells = (algorithm == Algorithm::RollingWindow).then_some(cells);
            let limit = Limit { cells, ..limit("l", algorithm, hits, window_ms, consistency) };
            let window_us = window_ms * 1000;
            Client { limit, hits, window_us, begins_at: at % (2 * window_us) }
        })
}

/// A world with one client. An `exact` limit has three holders, and a `leased` one has the one holder that it asks.
fn world(client: &Client) -> World {
    let exact = client.limit.consistency != Some(Consistency::Leased);
    let mut world = World::new(if exact { 3 } else { 1 }, vec![client.limit.clone()]);
    world.advance(client.begins_at);
    world
}

/// Asks one check now. Returns true if it is admitted.
fn ask(world: &mut World, number: u64) -> bool {
    let before = world.admissions.len();
    let holder = usize::try_from(number).unwrap() % world.holders.len();
    world.check(holder, 0, 1);
    world.deliver_all();
    world.admissions.len() > before
}

proptest! {
    #![proptest_config(proptest_config())]

    #[test]
    fn a_well_spaced_client_is_never_denied(
        client in client(),
        // Microseconds above the least spacing: most clients are hardly slower than the limit.
        slack in prop::collection::vec(prop_oneof![4 => 0u64..3, 2 => 0u64..5000, 1 => 0u64..100_000_000], 1..80),
    ) {
        let mut world = world(&client);
        let least = client.window_us / client.hits + 1;
        for (number, slack) in (0..).zip(&slack) {
            prop_assert!(ask(&mut world, number), "check {number} of {client:?} was denied");
            world.advance(least + slack);
        }
    }

    #[test]
    fn a_client_that_asks_without_pause_is_admitted_nearly_the_limit(client in client(), first in 1u64..20) {
        let mut world = world(&client);
        // At first it takes a part of the limit at once. From then on it asks sixty times a window.
        for number in 0..first.min(client.hits) {
            ask(&mut world, number);
        }
        let (windows, asks) = (6, 60);
        let before = world.admissions.len();
        for number in 0..windows * asks {
            world.advance(client.window_us / asks);
            ask(&mut world, number);
        }
        // What it took at first counts in the first window.
        let admitted = u64::try_from(world.admissions.len() - before).unwrap();
        let expected = (windows - 1) * client.hits;
        prop_assert!(admitted * 10 >= expected * 9, "{admitted} of {expected} of {client:?}");
    }
}

/// A step of a client whose hits are sometimes taken back.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// Checks that are charged and taken back, as when another limit denies them.
    TakenBack(u32),
    Check(u32),
    Advance(u64),
}

proptest! {
    #![proptest_config(proptest_config())]

    /// The promise over every hit that stays charged, also when the log of hits is full.
    #[test]
    fn hits_that_are_taken_back_hide_no_others(
        rolling: bool,
        most in 1..=MAX_LOGGED_LIMIT,
        steps in prop::collection::vec(prop_oneof![
            1 => (1u32..70).prop_map(Step::TakenBack),
            4 => (1u32..8).prop_map(Step::Check),
            4 => (1u64..1_500_000).prop_map(Step::Advance),
        ], 1..60),
    ) {
        let algorithm = if rolling { Algorithm::RollingWindow } else { Algorithm::SlidingWindow };
        let window = 1_000_000;
        let mut world = World::new(1, vec![limit("l", algorithm, most, 1000, Consistency::Exact)]);
        for step in steps {
            match step {
                Step::Advance(micros) => world.advance(micros),
                Step::Check(hits) => {
                    world.check(0, 0, hits);
                    world.deliver_all();
                }
                Step::TakenBack(times) => {
                    for _ in 0..times {
                        let before = world.admissions.len();
                        world.check(0, 0, 1);
                        world.deliver_all();
                        if world.admissions.len() > before {
                            world.check_charging(0, 0, 1, Charging::Refund);
                            world.deliver_all();
                            world.admissions.truncate(before);
                        }
                        world.advance(1000);
                    }
                }
            }
            let Some(last) = world.admissions.last().copied() else { continue };
            let admitted = &world.admissions;
            let sum = |keep: &dyn Fn(u64) -> bool| -> u64 { admitted.iter().filter(|a| keep(a.at)).map(|a| a.hits).sum() };
            let within = |at: u64| at + window > last.at;
            if rolling {
                prop_assert!(sum(&within) <= most, "{} of {most} within a window", sum(&within));
            } else {
                let cell = last.at / window;
                let current = sum(&|at| at / window == cell);
                let older = sum(&|at| at / window + 1 == cell && within(at));
                let used = current * window + older * (window - last.at % window);
                prop_assert!(used <= most * window, "{current} and a part of {older} of {most}");
            }
        }
    }
}

#[test]
fn a_limit_of_one_admits_a_request_in_each_window() {
    let cases = [(1, 65), (2, 40), (3, 21), (20, 4)];
    for algorithm in ALGORITHMS {
        for (hits, spacing_s) in cases {
            let mut world = World::new(1, vec![limit("l", algorithm, hits, 60_000, Consistency::Leased)]);
            for number in 0..100 {
                assert!(ask(&mut world, number), "{algorithm:?}, {hits} a minute, each {spacing_s} s");
                world.advance(spacing_s * 1_000_000);
            }
        }
    }
}

#[test]
fn a_denied_client_is_told_the_instant_at_which_the_next_request_fits() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::RollingWindow] {
        let mut world = World::new(1, vec![limit("l", algorithm, 1, 60_000, Consistency::Leased)]);
        world.advance(13_000_000);
        assert!(ask(&mut world, 0));
        world.advance(10_000_000);
        assert!(!ask(&mut world, 1));
        let decision = world.last_decision.clone().unwrap();
        assert_eq!(decision.retry_after, Some(50_000_000), "{algorithm:?}");
        assert_eq!(decision.limits[0].reset, 50_000_000, "not more than the window");
        world.advance(49_999_999);
        assert!(!ask(&mut world, 2), "{algorithm:?}");
        world.advance(1);
        assert!(ask(&mut world, 3), "{algorithm:?}");
    }
}
