//! The clock of a primary is set forward, and later back: within a key, time stands still meanwhile.

use crate::rules::limit;
use crate::stories::{HOUR, check_times};
use crate::world::World;
use limiter::rules::{Algorithm, CalendarUnit, Consistency, Limit, OnStoreFailure, Period};

/// How far the clock was set forward, in microseconds: several cells.
const STEP_US: i64 = 50 * 3_600_000_000;

/// One limit of ten, by the calendar day or by a window of an hour.
fn ten(calendar: bool, on_store_failure: OnStoreFailure) -> Vec<Limit> {
    let mut limit = limit("l", Algorithm::FixedWindow, 10, HOUR, Consistency::Exact);
    if calendar {
        limit.period = Period::Calendar { unit: CalendarUnit::Day, time_zone: "UTC".to_owned() };
    }
    limit.on_store_failure = on_store_failure;
    vec![limit]
}

/// Lets ten seconds pass, in which the first holder learns the store's clock from the replies for another key.
fn learn_clock(world: &mut World) {
    for _ in 0..200 {
        world.check(0, 1, 0);
        world.deliver_batch(0, false);
        world.deliver_reply(0);
        world.advance(50_000);
    }
}

#[test]
fn a_holder_that_never_saw_the_counter_counts_in_its_newest_cell() {
    for calendar in [false, true] {
        let mut world = World::new(2, ten(calendar, OnStoreFailure::Allow));
        world.store_clock_offset = STEP_US;
        assert_eq!(check_times(&mut world, 0, 5), 5);
        world.store_clock_offset = 0;
        assert_eq!(check_times(&mut world, 1, 50), 5, "calendar: {calendar}");
        assert_eq!(check_times(&mut world, 0, 50), 0, "calendar: {calendar}");
    }
}

#[test]
fn a_store_that_forgot_the_newest_cell_counts_by_its_own_clock() {
    let mut world = World::new(2, ten(true, OnStoreFailure::Deny));
    world.store_clock_offset = STEP_US;
    assert_eq!(check_times(&mut world, 0, 5), 5);
    world.store_clock_offset = 0;
    // The second holder learns of the newest cell, and before it asks again, the store forgets the cell.
    world.check(1, 0, 1);
    world.deliver_batch(1, false);
    world.deliver_reply(1);
    world.store.clear();
    world.deliver_all();
    assert_eq!(world.denied, 1, "the check was sent twice");
    assert_eq!(check_times(&mut world, 1, 50), 10);
}

#[test]
fn a_debt_of_the_newest_cell_is_charged_after_the_clock_was_set_back() {
    for calendar in [false, true] {
        let mut world = World::new(1, ten(calendar, OnStoreFailure::Local));
        world.store_clock_offset = STEP_US;
        learn_clock(&mut world);
        world.check(0, 0, 1);
        world.fail_to_send(0);
        let admitted = world.admitted_hits(0);
        assert_eq!(admitted, 1, "the holder admits one hit without the store");
        world.store_clock_offset = 0;
        learn_clock(&mut world);
        assert_eq!(world.charged_hits(0), 1, "calendar: {calendar}");
        assert_eq!(check_times(&mut world, 0, 50), 9, "calendar: {calendar}");
        assert!(world.holders[0].shard.is_quiet() && !world.holders[0].shard.has_stalled());
    }
}
