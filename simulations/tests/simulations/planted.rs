//! The oracles find planted bugs.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::bugs::{Bug, planted};
use crate::threads;
use simulations::bug_injector::NoBugs;
use simulations::oracle::{PROMISES, Violation};
use simulations::run::run;
use simulations::scenario::{Plan, Scenario};

/// A bug must be found within this number of seeds.
const MAX_SEEDS: u64 = 200;

/// Returns the first seed that finds a bug, and the violation.
fn find(bug: Bug, promise: &str, scenario: Scenario) -> Option<(u64, Violation)> {
    (0..MAX_SEEDS).find_map(|seed| {
        let run = run(Plan::new(scenario, seed).unwrap(), &mut *bug.plant(), false).unwrap();
        run.violations.into_iter().find(|violation| violation.promise == promise).map(|violation| (seed, violation))
    })
}

#[test]
fn planted_bugs_are_found() {
    let (planted, next) = (planted(), AtomicUsize::new(0));
    let missed = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                while let Some((bug, promise, scenario)) = planted.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let Some((seed, violation)) = find(*bug, promise, *scenario) else {
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
    for promise in PROMISES {
        let bugs = planted.iter().filter(|(_, broken, _)| *broken == promise).count();
        assert!(bugs >= 2, "{promise}: {bugs} bugs break it, expected at least 2");
    }
}
