//! Round trips to the store that begin in one window and end in the next one.

use limiter::rules::{Algorithm, Condition, Consistency, Limit, Match, Quota};

use crate::rules::limit;
use crate::stories::HOUR;
use crate::world::World;

/// The end of the first window, in microseconds after the beginning of a world.
const END_US: u64 = 1_000_000;

/// A limit of 1,000 hits a second that all users share.
fn shared() -> Limit {
    Limit { per: Vec::new(), ..limit("shared", Algorithm::FixedWindow, 1000, 1000, Consistency::Leased) }
}

/// A world with one holder at 900 milliseconds, whose user 0 has been admitted 200 hits. The holder has a lease.
fn world(limits: Vec<Limit>) -> World {
    let mut world = World::new(1, limits);
    world.advance(900_000);
    assert_eq!(admit(&mut world, 0, 200), 200);
    assert!(world.charged_hits_where(|_| true) > 200, "the holder has tokens of the first window");
    world
}

/// Asks `count` checks of one hit, one at a time. Returns the number of admitted hits.
fn admit(world: &mut World, user: u8, count: u32) -> u64 {
    let before = world.admitted_hits(user);
    for _ in 0..count {
        world.check(0, user, 1);
        world.deliver_all();
    }
    world.admitted_hits(user) - before
}

#[test]
fn tokens_of_a_window_that_has_ended_are_not_spent_before_the_next_tick() {
    let mut world = world(vec![shared()]);
    world.now = END_US;
    assert_eq!(admit(&mut world, 0, 1100), 1000, "the second window has its own thousand");
}

#[test]
fn a_check_counts_in_the_window_in_which_the_store_decides_it() {
    let mut world = world(vec![shared()]);
    world.check(0, 0, 900);
    // 200 hits of the first window are used, so 900 do not fit there.
    world.now = END_US;
    world.deliver_all();
    assert_eq!(world.admitted_hits(0), 1100);
    assert_eq!(admit(&mut world, 0, 200), 100);
}

#[test]
fn a_check_that_arrives_during_a_round_trip_is_not_paid_from_the_window_before() {
    let mut world = world(vec![shared()]);
    world.check(0, 0, 600);
    world.deliver_batch(0, false);
    // The store has charged 600 hits to the first window. Its reply is on the way, and another check waits for it.
    world.check(0, 1, 1);
    world.now = END_US + 5000;
    world.deliver_reply(0);
    assert_eq!(world.admitted_hits(0), 800);
    world.deliver_all();
    assert_eq!(world.admitted_hits(1), 1);
    assert_eq!(admit(&mut world, 0, 1100), 999, "the check that came meanwhile has taken one of the second window");
}

#[test]
fn hits_of_a_check_that_is_denied_in_the_next_window_go_back_to_theirs() {
    let of_user_0 =
        Match { conditions: [("user".to_owned(), Condition::Equal("0".to_owned()))].into(), ..Match::default() };
    for algorithm in [Algorithm::FixedWindow, Algorithm::TokenBucket] {
        let hourly = limit("hourly", algorithm, 200, HOUR, Consistency::Exact);
        let mut world = world(vec![shared(), Limit { matches: of_user_0.clone(), ..hourly }]);
        // A token of the first window pays for the shared limit, and the store is asked for the other one.
        world.check(0, 0, 1);
        // The same batch brings a lease of the second window.
        world.now = END_US + 5000;
        world.check(0, 1, 1);
        world.deliver_all();
        assert_eq!((world.denied, world.admitted_hits(1)), (1, 1), "{algorithm:?}");
        assert_eq!(admit(&mut world, 1, 1100), 999, "{algorithm:?}: the second window has not gained a hit");
    }
}

#[test]
fn a_wait_that_ends_with_the_window_ends_for_a_remembered_denial_too() {
    let mut world = World::new(1, vec![Limit { limit: Quota::Hits(100), ..shared() }]);
    world.advance(900_000);
    assert_eq!(admit(&mut world, 0, 101), 100);
    world.now = END_US - 1;
    assert_eq!(admit(&mut world, 0, 1), 0);
    world.now = END_US;
    assert_eq!(admit(&mut world, 0, 1), 1);
}
