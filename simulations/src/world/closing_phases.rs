//! The phases after the faults: everything settles, the limits are used up, and the limits refill.

use super::World;
use crate::history::RefillProbes;
use crate::ids::{CoreId, RegionIndex};
use crate::scenario::{
    Asked, DRAIN_PROBE_USERS, DRAINED_USERS, LimitSet, Plan, UNENDING_MS, capacity, horizon_us, is_escrow,
};
use limiter::rules::{Limit, Period, Quota};

/// More checks than any user's window that does not end allows.
const MAX_DRAIN_CHECKS: u32 = 700;
/// Nodes inspect leases and silent servers, and learn of changes, within this time, in microseconds.
const UPKEEP_US: u64 = 400_000;
/// A region that is not quiet after this additional time never will be, in microseconds.
const GIVE_UP_AFTER_US: u64 = 10_000_000;

impl World<'_> {
    /// Waits for the stated time until nothing is in flight and the clocks are back where they were. If a region is not
    /// quiet then, waits on until it is, or gives up.
    pub fn quiesce(&mut self) {
        let plan = &self.cx.plan;
        let Plan { lease_us, deadline_us, .. } = *plan;
        let stated = lease_us + 2 * deadline_us + plan.round_trip_us() + UPKEEP_US + plan.clock_jumps_us();
        self.run_until(self.cx.now + stated);
        let end = self.cx.now + GIVE_UP_AFTER_US;
        self.cx.history.quiesced_in_time = self.is_quiet();
        while !self.is_quiet() && self.cx.now < end {
            self.run_until(self.cx.now + UPKEEP_US);
        }
        self.cx.history.quiesced_at = self.cx.now;
        self.cx.trace(|_| "-- everything is quiet".to_owned());
    }

    fn is_quiet(&self) -> bool {
        self.regions.iter().all(super::Region::is_quiet)
    }

    /// Uses up the windows that do not end, in each region.
    pub fn drain(&mut self) {
        self.cx.history.drain_start = self.cx.history.checks.len();
        self.cx.plan.regions.indices().for_each(|region| self.drain_region(region));
    }

    /// Skips the limits that users share if tokens may have been lost, because their use then shows nothing.
    fn drain_region(&mut self, region: RegionIndex) {
        let core = self.draw_core(region);
        for user in 0..self.cx.plan.users.min(DRAINED_USERS) {
            self.use_up(core, LimitSet::PerUser, MAX_DRAIN_CHECKS, || user);
        }
        if !self.cx.plan.is_certain(region) {
            return;
        }
        let mut new_user = self.cx.plan.users;
        self.use_up(core, LimitSet::SharedPair, DRAIN_PROBE_USERS, || {
            new_user += 1;
            new_user - 1
        });
    }

    /// Sends checks until one is denied, at most `max_checks`.
    fn use_up(&mut self, core: CoreId, limit_set: LimitSet, max_checks: u32, mut user: impl FnMut() -> u32) {
        for _ in 0..max_checks {
            let user = user();
            if !self.probe(core, limit_set, user) {
                break;
            }
        }
    }

    /// Waits for the stated time in which regions agree, and reads what each one knows of the others.
    pub fn compare_regions(&mut self) {
        if self.cx.plan.regions.count() < 2 {
            return;
        }
        self.run_until(self.cx.now + self.cx.plan.convergence_us());
        let Self { cx, regions, .. } = self;
        regions.iter_mut().for_each(|region| region.observe_counts(cx));
    }

    /// Waits until no earlier charge counts, and probes that every limit is fully usable in each region. Does nothing
    /// if a limit has a calendar, whose window does not end.
    pub fn refill(&mut self) {
        if self.cx.plan.calendar.is_some() {
            return;
        }
        let plan = &self.cx.plan;
        let all = plan.edits.iter().flat_map(|edit| edit.rules.all_terms());
        let ending = all.filter(|limit: &&Limit| limit.period != Period::Window { ms: UNENDING_MS });
        let horizon = ending.map(horizon_us).max().unwrap_or(0) + plan.clock_spread_us();
        let users = plan.users;
        let probed_users = [0, users - 1].into_iter().take(users.min(2) as usize);
        let regions = self.cx.plan.regions.indices();
        for (user, region) in probed_users.flat_map(|user| regions.clone().map(move |region| (user, region))) {
            self.run_until(self.cx.now + horizon);
            let core = self.draw_core(region);
            let start = self.cx.history.checks.len();
            let hits = refilled_hits(&self.cx.plan, region, user);
            for _ in 0..hits {
                self.probe(core, LimitSet::Short, user);
            }
            self.cx.history.refill_probes.push(RefillProbes { user, start, hits });
        }
    }
}

/// Returns how many hits a user gets when no earlier charge counts, of the limits with short windows. 0 if none of them
/// enforces a number of hits.
fn refilled_hits(plan: &Plan, region: RegionIndex, user: u32) -> u64 {
    let Some(edit) = plan.edits.last() else { return 0 };
    let applied = edit.rules.applied(region, LimitSet::Short, &[Asked::of(user, 1)]);
    let limits = || applied.iter().filter(|it| it.enforces()).map(|it| it.terms);
    let hits = limits().filter(|limit| limit.limit != Quota::Unlimited).map(capacity).min().unwrap_or(0);
    // Under escrow, a region may have given most of the rights away with which it began the window.
    if limits().any(is_escrow) { plan.begins_with(region, hits).min(1) } else { hits }
}
