//! Runs one seed: a phase with faults, a phase in which everything settles, and a phase in which every limit must be
//! fully usable again.

use super::bug_injector::BugInjector;
use super::history::History;
use super::ids::RegionIndex;
use super::oracle::{self, DemandMet, Violation, WindowTotal};
use super::scenario::Plan;
use super::world::World;

/// The result of a simulation.
pub struct Run {
    pub plan: Plan,
    pub history: History,
    /// What happened, one line for each event; empty if no trace was recorded.
    pub trace: String,
    pub violations: Vec<Violation>,
}

/// The checks of one region, without probes.
#[derive(Clone, Copy, Debug, Default)]
pub struct RegionSums {
    pub region: RegionIndex,
    pub checks: u64,
    pub allowed: u64,
    pub denied: u64,
    /// Those that were decided without the store.
    pub degraded: u64,
    /// Those that were decided as `on_partition` says.
    pub partitioned: u64,
}

impl Run {
    /// Returns the sums of each region.
    pub fn region_sums(&self) -> Vec<RegionSums> {
        let mut sums: Vec<RegionSums> =
            self.plan.regions.indices().map(|region| RegionSums { region, ..RegionSums::default() }).collect();
        for check in self.history.checks.iter().filter(|check| !check.probe) {
            let Some(sums) = sums.get_mut(check.core.region.0) else { continue };
            sums.checks += 1;
            let Some(decided) = check.decision() else { continue };
            let counts = [
                (&mut sums.allowed, decided.allowed),
                (&mut sums.denied, !decided.allowed),
                (&mut sums.degraded, decided.degraded),
                (&mut sums.partitioned, decided.partitioned),
            ];
            counts.into_iter().for_each(|(sum, counts)| *sum += u64::from(counts));
        }
        sums
    }

    /// Returns what became of the demand for a limit under escrow.
    pub fn demand_met(&self) -> Option<DemandMet> {
        oracle::demand_met(&self.plan, &self.history)
    }

    /// Returns what all regions admitted in each window that I3 bounds for all of them together.
    pub fn window_totals(&self) -> Vec<WindowTotal> {
        oracle::window_totals(&self.plan, &self.history, &oracle::usages(&self.plan, &self.history))
    }
}

/// Runs a plan.
///
/// # Errors
/// Returns an error if the script does not compile.
pub fn run(plan: Plan, bugs: &mut dyn BugInjector, record_trace: bool) -> mlua::Result<Run> {
    let mut world = World::new(plan, bugs, record_trace)?;
    world.run_faults();
    world.quiesce();
    world.drain();
    world.compare_regions();
    world.refill();
    let (plan, history, trace) = world.finish();
    let violations = oracle::judge(&plan, &history);
    Ok(Run { plan, history, trace, violations })
}
