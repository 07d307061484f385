//! The oracles find planted bugs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::bugs::{Bug, books, escrow, gossip, in_a_region};
use crate::threads;
use simulations::bug_injector::NoBugs;
use simulations::oracle::{PROMISES, Violation};
use simulations::run::run;
use simulations::scenario::{Plan, Scenario};

/// A bug, the promise that it breaks, and the scenario that shows it.
type Planted = (Bug, &'static str, Scenario);

/// A bug must be found within this number of seeds.
const MAX_SEEDS: u64 = 400;

fn in_a_region() -> Vec<Planted> {
    in_a_region::PLANTED.map(|(bug, promise, scenario)| (Bug::InARegion(bug), promise, scenario)).to_vec()
}

fn of_books() -> Vec<Planted> {
    books::PLANTED.map(|(bug, promise, scenario)| (Bug::Books(bug), promise, scenario)).to_vec()
}

fn of_gossip() -> Vec<Planted> {
    gossip::PLANTED.map(|(bug, promise, scenario)| (Bug::Gossip(bug), promise, scenario)).to_vec()
}

fn of_escrow() -> Vec<Planted> {
    escrow::PLANTED.map(|(bug, promise, scenario)| (Bug::Escrow(bug), promise, scenario)).to_vec()
}

/// Returns the first seed that finds a bug, and the violation.
fn find((bug, promise, scenario): Planted) -> Option<(u64, Violation)> {
    (0..MAX_SEEDS).find_map(|seed| {
        let run = run(Plan::new(scenario, seed).unwrap(), &mut *bug.plant(), false).unwrap();
        run.violations.into_iter().find(|violation| violation.promise == promise).map(|violation| (seed, violation))
    })
}

/// Finds the bugs whose names contain `TIDEGATE_BUG`, or all of them without it.
fn find_all(planted: &[Planted]) {
    let name = std::env::var("TIDEGATE_BUG").unwrap_or_default();
    let planted: Vec<Planted> =
        planted.iter().filter(|(bug, ..)| format!("{bug:?}").contains(&name)).copied().collect();
    let next = AtomicUsize::new(0);
    let missed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                while let Some((bug, promise, scenario)) = planted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some((seed, violation)) = find((*bug, promise, *scenario)) else {
                        missed.lock().unwrap().push(*bug);
                        continue;
                    };
                    println!("{bug:?}: found after {} seeds of {}: {violation}", seed + 1, scenario.name());
                    let without = run(Plan::new(*scenario, seed).unwrap(), &mut NoBugs, false).unwrap();
                    assert!(without.violations.is_empty(), "{bug:?}: seed {seed} breaks a promise without the bug");
                }
            });
        }
    });
    let missed = missed.into_inner().unwrap();
    assert!(missed.is_empty(), "not found within {MAX_SEEDS} seeds: {missed:?}");
}

#[test]
fn planted_bugs_in_a_region_are_found() {
    find_all(&in_a_region());
}

#[test]
fn planted_bugs_in_the_meaning_of_rules_are_found() {
    find_all(&of_books());
}

#[test]
fn planted_bugs_of_gossip_are_found() {
    find_all(&of_gossip());
}

#[test]
fn planted_bugs_of_escrow_are_found() {
    find_all(&of_escrow());
}

#[test]
fn at_least_two_bugs_break_each_promise() {
    let planted: Vec<Planted> = [in_a_region(), of_books(), of_gossip(), of_escrow()].concat();
    for promise in PROMISES {
        let bugs = planted.iter().filter(|(_, broken, _)| *broken == promise).count();
        assert!(bugs >= 2, "{promise}: {bugs} bugs break it, expected at least 2");
    }
}
