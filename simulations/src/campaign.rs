//! A campaign: many seeds on several threads, with their sums and the broken promises.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use super::bug_injector::NoBugs;
use super::history::ClientCheck;
use super::oracle::{DemandMet, Violation, WindowTotal};
use super::run::{Run, run};
use super::scenario::{Plan, Scenario, Spread};
use limiter::invariant::{self, Invariant};

/// The seeds to run.
#[derive(Clone, Debug)]
pub struct Campaign {
    /// Successive seeds run successive scenarios, in turn.
    pub scenarios: Vec<Scenario>,
    pub first: u64,
    /// The number of seeds.
    pub seeds: u64,
    pub threads: usize,
}

/// The sums of one scenario.
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
pub struct BrokenSeed {
    pub scenario: Scenario,
    pub seed: u64,
    pub violations: Vec<Violation>,
}

/// How much more than a limit all regions together admitted in one seed, of the windows that I3 bounds.
#[derive(Clone, Copy, Debug)]
pub struct Overshoot {
    pub seed: u64,
    /// The window with the most hits for its limit.
    pub largest: WindowTotal,
    /// The window that came closest to its bound.
    pub closest: WindowTotal,
}

/// The result of a campaign.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// By scenario, for scenarios with such windows.
    pub overshoots: BTreeMap<&'static str, Vec<Overshoot>>,
    pub by_scenario: BTreeMap<&'static str, Sums>,
    /// What became of the demand for limits under escrow, by its spread: one for each seed.
    pub demands: BTreeMap<Spread, Vec<DemandMet>>,
    /// By seed, in ascending order.
    pub broken: Vec<BrokenSeed>,
}

impl Campaign {
    /// Returns the scenario of a seed.
    pub fn scenario(&self, seed: u64) -> Scenario {
        let count = self.scenarios.len().max(1) as u64;
        let at = usize::try_from(seed.wrapping_sub(self.first) % count).unwrap_or(0);
        self.scenarios.get(at).copied().unwrap_or(Scenario::Everything)
    }

    /// Runs the seeds. Calls `done` with each result, on the thread that ran it.
    ///
    /// # Errors
    /// Returns why a simulation could not run, or that the code found its own invariants broken.
    pub fn run(&self, done: impl Fn(&Run) + Sync) -> Result<Summary, String> {
        let before = broken_invariants();
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
                        let ran = run_seed(self.scenario(seed), seed, false);
                        if let Ok(run) = &ran {
                            done(run);
                        }
                        let mut summary = summary.lock().unwrap_or_else(PoisonError::into_inner);
                        match (&mut *summary, ran) {
                            (Ok(summary), Ok(run)) => summary.add(run),
                            (Ok(_), Err(error)) => *summary = Err(error),
                            (Err(_), _) => break,
                        }
                    }
                });
            }
        });
        let mut summary = summary.into_inner().unwrap_or_else(PoisonError::into_inner)?;
        summary.broken.sort_by_key(|broken| broken.seed);
        summary.overshoots.values_mut().for_each(|of| of.sort_by_key(|overshoot| overshoot.seed));
        // Without debug assertions a broken invariant is only counted, for all threads together.
        match broken_invariants() - before {
            0 => Ok(summary),
            count => Err(format!("the code found its own invariants broken {count} times")),
        }
    }
}

/// Returns how many broken invariants the code itself has counted.
fn broken_invariants() -> u64 {
    Invariant::ALL.into_iter().map(invariant::broken).sum()
}

/// Runs one seed.
///
/// # Errors
/// Returns why the simulation could not run.
pub fn run_seed(scenario: Scenario, seed: u64, record_trace: bool) -> Result<Run, String> {
    let plan = Plan::new(scenario, seed).map_err(|problems| format!("{problems:?}"))?;
    run(plan, &mut NoBugs, record_trace).map_err(|error| error.to_string())
}

impl Overshoot {
    /// Returns `None` if no window is bounded.
    pub fn of(run: &Run) -> Option<Self> {
        let totals = run.window_totals();
        let largest = totals.iter().max_by(|a, b| a.ratio().total_cmp(&b.ratio()));
        let closest = totals.iter().max_by_key(|total| total.excess());
        Some(Self { seed: run.plan.seed, largest: *largest?, closest: *closest? })
    }
}

impl Summary {
    fn add(&mut self, run: Run) {
        let overshoot = Overshoot::of(&run);
        // How rights follow is reported for the windows after the first ones, and a calendar has no such window here.
        let demand = run.plan.demand.as_ref().filter(|_| run.plan.calendar.is_none());
        if let (Some(demand), Some(met)) = (demand, run.demand_met()) {
            self.demands.entry(demand.spread).or_default().push(met);
        }
        let Run { plan, history, violations, .. } = run;
        if let Some(overshoot) = overshoot {
            self.overshoots.entry(plan.scenario.name()).or_default().push(overshoot);
        }
        let sums = self.by_scenario.entry(plan.scenario.name()).or_default();
        let decided = history.checks.iter().filter_map(ClientCheck::decision);
        sums.seeds += 1;
        sums.checks += history.checks.len() as u64;
        sums.allowed += decided.clone().filter(|decided| decided.allowed).count() as u64;
        sums.degraded += decided.filter(|decided| decided.degraded).count() as u64;
        sums.faults += plan.faults.len() as u64;
        sums.violations += violations.len() as u64;
        if !violations.is_empty() {
            self.broken.push(BrokenSeed { scenario: plan.scenario, seed: plan.seed, violations });
        }
    }
}
