//! Regions that move rights of a limit under `escrow`, over a network that loses, repeats and reorders messages, with
//! stores that fail over and lose what no replica had.

mod world;

use limiter::counter::{Counter, Give, Given, Grid, Record, SeenCells};
use limiter::rules::{Algorithm, Consistency, GlobalStrategy, Limit, OnPartition, Scope};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::dry_domain::{DryDomain, told};
use crate::rules::limit;
use world::{LIMIT, NOW_MS, Step, WIDTH_MS, World, any_step, number, of};

proptest! {
    #[test]
    fn all_regions_together_never_admit_more_than_the_limit(steps in vec(any_step(), 1..80)) {
        let mut world = World::new();
        for step in &steps {
            world.apply(step);
            world.check();
        }
    }
}

#[test]
fn rights_that_one_region_does_not_use_are_spent_in_another() {
    let mut world = World::new();
    let mut admitted = 0;
    for _ in 0..200 {
        if world.regions[0].spend(1).0 {
            admitted += 1;
        } else {
            for to in [1, 2] {
                world.ask(0, to, 5, true);
                world.deliver(world.answers.len() - 1);
            }
        }
    }
    world.check();
    assert_eq!(admitted, LIMIT);
}

#[test]
fn an_answer_of_an_earlier_primary_is_rejected_once_its_successor_was_told_what_the_region_has() {
    let mut world = World::new();
    // Region 1 gives region 0 rights. Its replica had them, but another server without them takes over.
    let before = world.regions[1].data.clone();
    world.ask(0, 1, 7, false);
    world.regions[1].replica = before;
    world.regions[1].fail_over();
    // The new primary asks what the others got. The answer of the old one is still on its way.
    for to in [0, 2] {
        assert!(!world.regions[1].spend(1).0, "nobody has confirmed yet");
        world.ask(1, to, 0, false);
        world.deliver(world.answers.len() - 1);
    }
    assert!(world.regions[1].spend(10).0);
    world.deliver(0);
    while world.regions[0].spend(1).0 || world.regions[2].spend(1).0 {}
    world.check();
}

#[test]
fn a_new_primary_learns_what_the_old_one_gave() {
    let mut world = World::new();
    let before = world.regions[1].data.clone();
    world.ask(0, 1, 7, false);
    world.deliver(0);
    world.regions[1].replica = before;
    world.regions[1].fail_over();
    for to in [0, 2] {
        world.ask(1, to, 0, false);
        world.deliver(world.answers.len() - 1);
    }
    while world.regions[0].spend(1).0 || world.regions[1].spend(1).0 || world.regions[2].spend(1).0 {}
    world.check();
    assert_eq!(world.regions.iter().map(|region| of(&region.admitted, NOW_MS)).sum::<u64>(), LIMIT);
}

#[test]
fn a_store_that_has_lost_everything_spends_nothing_of_the_window() {
    let mut world = World::new();
    assert!(world.regions[0].spend(10).0);
    world.apply(&Step::Wipe { region: 0 });
    for to in [1, 2] {
        world.ask(0, to, 5, true);
        world.deliver(world.answers.len() - 1);
    }
    assert!(!world.regions[0].spend(1).0);
    world.regions[0].now_ms += i64::try_from(WIDTH_MS).unwrap();
    assert!(world.regions[0].spend(10).0, "the next window has its rights");
}

#[test]
fn a_transfer_counts_in_the_cell_that_it_names_alone() {
    let mut world = World::new();
    world.ask(0, 1, 7, false);
    world.regions[0].now_ms += i64::try_from(WIDTH_MS).unwrap();
    assert!(world.regions[0].spend(1).0);
    world.deliver(0);
    assert!(!world.regions[0].spend(10).0 && world.regions[0].spend(9).0, "the next window has ten rights");
    // The clock of region 0 is in the next window, that of region 1 is not: it has nothing to give of it yet.
    world.ask(0, 1, 7, true);
    assert_eq!(world.answers.last().unwrap().4.given, 0);
}

#[test]
fn a_step_back_of_the_clock_does_not_find_a_cell_again_that_a_transfer_of_the_next_one_followed() {
    let mut world = World::new();
    assert!(world.regions[1].spend(10).0);
    // The lane notes its time shortly before the window ends. Then another region asks for rights of the next window.
    world.regions[1].now_ms += i64::try_from(WIDTH_MS).unwrap() - 200;
    assert!(!world.regions[1].spend(1).0);
    world.regions[0].now_ms += i64::try_from(WIDTH_MS).unwrap() + 300;
    world.regions[1].now_ms += 500;
    world.ask(0, 1, 1, false);
    world.regions[1].now_ms -= 400;
    assert!(!world.regions[1].spend(1).0, "all rights of this window are spent");
}

#[test]
fn a_clock_that_steps_back_further_than_the_lane_s_last_visit_stands_still() {
    let mut world = World::new();
    assert!(world.regions[1].spend(10).0);
    world.regions[1].now_ms += i64::try_from(WIDTH_MS).unwrap();
    // A node visits the lane, and the record of the counter has expired.
    world.regions[1].take(0, 0, Given::default(), 0);
    world.regions[1].data.record = None;
    world.regions[1].now_ms -= 5000;
    assert!(world.regions[1].spend(1).0);
    assert_eq!(of(&world.regions[1].admitted, NOW_MS), 10, "it counts in the next window");
}

/// What a region asks that a sound node would not ask.
fn ask_strangely(world: &mut World, grid: Grid, cell_ms: u64) {
    let region = &mut world.regions[1];
    let give = Give { to: number(0), cell_ms, wanted: 0, denied: false, received: 0, epoch_ms: 1 };
    region.run(Counter::Give { grid, escrow: region.escrow, give }, Vec::new());
}

#[test]
fn the_window_that_another_region_names_takes_no_count_away() {
    let mut world = World::new();
    assert!(world.regions[1].spend(10).0);
    world.regions[1].now_ms += 5000;
    for cell_ms in [0, NOW_MS + 4999, NOW_MS + 5000, NOW_MS + 5001] {
        ask_strangely(&mut world, Grid::Fixed { width_ms: 1 }, cell_ms);
    }
    let bounds = [1, 2, NOW_MS, NOW_MS + WIDTH_MS];
    ask_strangely(&mut world, Grid::Calendar { bounds }, NOW_MS + WIDTH_MS);
    assert!(!world.regions[1].spend(1).0);
}

#[test]
fn a_region_admits_no_more_than_the_limit_whatever_others_say_that_they_gave() {
    let mut world = World::new();
    let given = Given { epoch_ms: NOW_MS, given: 1 << 40, ..Given::default() };
    world.regions[0].take(1, NOW_MS, given, 0);
    world.regions[0].take(1, NOW_MS + 2 * WIDTH_MS, given, 0);
    assert!(!world.regions[0].spend(LIMIT + 1).0);
    assert!(world.regions[0].spend(LIMIT).0);
    assert!(!world.regions[0].spend(1).0);
    let Some(Record::Window(window)) = &world.regions[0].data.record else { panic!("expected a window") };
    assert_eq!(window.cells.len(), 1, "the cell after the next is far away");
}

#[test]
fn answers_that_are_lost_do_not_drain_a_region() {
    let mut world = World::new();
    for _ in 0..20 {
        world.ask(0, 1, 5, true);
    }
    assert!(world.regions[1].spend(5).0, "half of its rights are on their way, and no more");
}

#[test]
fn a_counter_that_was_evicted_hears_what_it_gave() {
    let mut world = World::new();
    world.ask(0, 1, 7, true);
    world.deliver(0);
    world.regions[1].data.record = None;
    world.ask(0, 1, 0, false);
    while world.regions[0].spend(1).0 || world.regions[1].spend(1).0 || world.regions[2].spend(1).0 {}
    world.check();
}

#[test]
fn what_a_node_saw_brings_no_rights_back_that_its_store_has_rejected() {
    let mut world = World::new();
    let before = [0, 1].map(|region| world.regions[region].data.clone());
    world.ask(0, 1, 7, true);
    world.deliver(0);
    let Some(Record::Window(window)) = &world.regions[0].data.record else { panic!("expected a window") };
    let seen = SeenCells::from(window.cells.as_slice());
    // Both primaries are replaced by servers that have not heard of the transfer, and confirm that to each other.
    for (region, data) in before.into_iter().enumerate() {
        world.regions[region].replica = data;
        world.regions[region].now_ms += 100;
        world.regions[region].fail_over();
    }
    for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2)] {
        world.ask(from, to, 0, false);
        world.deliver(world.answers.len() - 1);
    }
    assert!(!world.regions[0].spend_having_seen(12, seen.clone()).0);
    assert!(world.regions[0].spend_having_seen(10, seen).0);
}

#[test]
fn a_gift_of_a_replaced_primary_that_nobody_was_told_of_is_not_told_by_its_successor() {
    let mut world = World::new();
    let before = world.regions[1].data.clone();
    // The primary of region 1 is replaced while it gives rights. No replica has the gift, so region 0 is not told.
    world.ask(0, 1, 7, true);
    let Some(Record::Window(window)) = &world.regions[1].data.record else { panic!("expected a window") };
    let seen = SeenCells::from(window.cells.as_slice());
    world.regions[1].replica = before;
    world.regions[1].fail_over();
    for to in [0, 2] {
        world.ask(1, to, 0, false);
        world.deliver(world.answers.len() - 1);
    }
    assert!(world.regions[1].spend(10).0, "the successor has all rights of the region");
    // A node saw the gift, and region 0 asks again.
    world.regions[1].spend_having_seen(1, seen);
    world.ask(0, 1, 7, true);
    world.deliver(world.answers.len() - 1);
    while world.regions[0].spend(1).0 || world.regions[2].spend(1).0 {}
    world.check();
}

/// Region 0 spends its part and gets rights of region 1, which it passes on to region 2. Then replicas take over from
/// the primaries of the regions 0 and 1. Returns what all regions admit. `waits` says whether the replica of region 1
/// has its gift before region 0 hears of it.
fn admitted_after_a_gift_was_passed_on(waits: bool) -> u64 {
    let mut world = World::new();
    assert!(world.regions[0].spend(10).0);
    world.regions[0].replicate();
    let before = [0, 1].map(|region| world.regions[region].data.clone());
    for (from, to) in [(0, 1), (2, 0)] {
        world.ask(from, to, 7, true);
        world.deliver(world.answers.len() - 1);
    }
    while world.regions[2].spend(1).0 {}
    for (region, data) in before.into_iter().enumerate() {
        if region == 0 || !waits {
            world.regions[region].replica = data;
        }
        world.regions[region].fail_over();
    }
    for (from, to) in [(0, 1), (0, 2), (1, 0), (1, 2)] {
        world.ask(from, to, 0, false);
        world.deliver(world.answers.len() - 1);
    }
    while (0..3).any(|region| world.regions[region].spend(1).0) {}
    world.regions.iter().map(|region| of(&region.admitted, NOW_MS)).sum()
}

#[test]
fn a_gift_that_is_passed_on_survives_two_failovers_because_a_replica_has_it_before_anybody_hears_of_it() {
    assert!(admitted_after_a_gift_was_passed_on(true) <= LIMIT);
    assert!(admitted_after_a_gift_was_passed_on(false) > LIMIT, "without the wait, the promise breaks");
}

#[test]
fn the_only_region_has_all_rights() {
    for strategy in [GlobalStrategy::Escrow, GlobalStrategy::Gossip { on_partition: OnPartition::Deny }] {
        let global = Limit {
            scope: Scope::Global(strategy),
            ..limit("l", Algorithm::FixedWindow, 5, 60_000, Consistency::Exact)
        };
        let mut domain = DryDomain::with_limits(vec![global]);
        assert_eq!(told(&domain.check(0, 4, &[&[("user", "bob")]])), ["0 l 1/5"], "{strategy:?}");
        assert_eq!(told(&domain.check(0, 2, &[&[("user", "bob")]])), ["0 l 1/5 denies"], "{strategy:?}");
        let decision = domain.check(60_000_000, 5, &[&[("user", "bob")]]);
        assert!(decision.allowed && !decision.partitioned, "{strategy:?}");
    }
}
