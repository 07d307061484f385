//! Many seeds, on several threads: how many were run, and what was broken.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::ledger::Said;
use super::meddler::Honest;
use super::oracle::Violation;
use super::plan::Plan;
use super::run::{Run, run};
use super::scenario::Scenario;
use limiter::invariant::{self, Invariant};

/// What is to be run.
#[derive(Clone, Debug)]
pub struct Many {
    pub scenarios: Vec<Scenario>,
    /// The first seed, and how many; the scenarios take turns.
    pub first: u64,
    pub seeds: u64,
    pub threads: usize,
}

/// What came of it, scenario by scenario.
#[derive(Clone, Debug, Default)]
pub struct Sums {
    pub seeds: u64,
    pub checks: u64,
    pub allowed: u64,
    pub degraded: u64,
    pub faults: u64,
    pub violations: u64,
}

/// A seed that broke a promise.
#[derive(Clone, Debug)]
pub struct Broken {
    pub scenario: Scenario,
    pub seed: u64,
    pub violations: Vec<Violation>,
}

#[derive(Clone, Debug, Default)]
pub struct Summary {
    pub by_scenario: BTreeMap<&'static str, Sums>,
    /// In the order of their seeds.
    pub broken: Vec<Broken>,
}

impl Many {
    /// The scenario of a seed.
    pub fn scenario(&self, seed: u64) -> Scenario {
        let count = self.scenarios.len().max(1) as u64;
        let at = usize::try_from(seed.wrapping_sub(self.first) % count).unwrap_or(0);
        self.scenarios.get(at).copied().unwrap_or(Scenario::Everything)
    }

    /// Runs them; `done` is told of each, by some thread.
    ///
    /// # Errors
    /// What kept a simulation from running.
    pub fn run(&self, done: impl Fn(&Run) + Sync) -> Result<Summary, String> {
        let before = broken_inside();
        let next = AtomicU64::new(self.first);
        let summary: Mutex<Result<Summary, String>> = Mutex::new(Ok(Summary::default()));
        std::thread::scope(|scope| {
            for _ in 0..self.threads.max(1) {
                scope.spawn(|| {
                    loop {
                        let seed = next.fetch_add(1, Ordering::Relaxed);
                        if seed.wrapping_sub(self.first) >= self.seeds {
                            break;
                        }
                        let ran = one(self.scenario(seed), seed, false);
                        if let Ok(run) = &ran {
                            done(run);
                        }
                        let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                        match (&mut *summary, ran) {
                            (Ok(summary), Ok(run)) => summary.add(run),
                            (Ok(_), Err(why)) => *summary = Err(why),
                            (Err(_), _) => break,
                        }
                    }
                });
            }
        });
        let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        summary.broken.sort_by_key(|broken| broken.seed);
        // Where debug assertions are off these are only counted, for all threads together.
        match broken_inside() - before {
            0 => Ok(summary),
            count => Err(format!("the code itself found its invariants broken {count} times")),
        }
    }
}

fn broken_inside() -> u64 {
    Invariant::ALL.into_iter().map(invariant::broken).sum()
}

/// Runs one seed.
///
/// # Errors
/// What kept it from running.
pub fn one(scenario: Scenario, seed: u64, tells: bool) -> Result<Run, String> {
    let plan = Plan::new(scenario, seed).map_err(|problems| format!("{problems:?}"))?;
    run(plan, &mut Honest, tells).map_err(|error| error.to_string())
}

impl Summary {
    fn add(&mut self, run: Run) {
        let Run { plan, ledger, violations, .. } = run;
        let sums = self.by_scenario.entry(plan.scenario.name()).or_default();
        let decided = ledger.asked.iter().filter_map(|asked| match &asked.answer {
            Some((_, Said::Decided(decided))) => Some(decided),
            _ => None,
        });
        sums.seeds += 1;
        sums.checks += ledger.asked.len() as u64;
        sums.allowed += decided.clone().filter(|decided| decided.allowed).count() as u64;
        sums.degraded += decided.filter(|decided| decided.degraded).count() as u64;
        sums.faults += plan.faults.len() as u64;
        sums.violations += violations.len() as u64;
        if !violations.is_empty() {
            self.broken.push(Broken { scenario: plan.scenario, seed: plan.seed, violations });
        }
    }
}
