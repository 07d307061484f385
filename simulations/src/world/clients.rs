//! The clients: which checks are sent, when, and to which core.

use super::World;
use crate::context::Event;
use crate::history::ClientCheck;
use crate::ids::{CheckIndex, CoreId, CoreIndex, RegionIndex};
use crate::scenario::{Asked, LimitSet, Scenario, Traffic, draw_descriptors};

/// The largest number of checks in a burst.
const MAX_BURST: u64 = 60;
/// The checks of a burst are sent within this time, in microseconds.
const BURST_US: u64 = 3000;
/// While a probe waits for its answer, the world runs in steps of this length, in microseconds.
const PROBE_STEP_US: u64 = 100;

impl World<'_> {
    /// Sends the checks of one client, and schedules the next client.
    pub(super) fn next_client(&mut self) {
        let cx = &mut self.cx;
        if cx.now >= cx.plan.heals_at || cx.is_check_limit_reached() {
            return;
        }
        let Traffic { longest_gap_us, bursts, short_only, .. } = cx.plan.traffic;
        let pause = cx.rng.traffic.between(1, longest_gap_us);
        cx.schedule_in(pause, Event::NextClient);
        let rng = &mut cx.rng.traffic;
        let user = u32::try_from(rng.skewed(cx.plan.users.into())).unwrap_or(0);
        let short = if rng.chance(short_only) { LimitSet::ShortOnly } else { LimitSet::Short };
        let limit_set = rng.pick(short, &[short, short, LimitSet::SharedPair, LimitSet::PerUser]);
        let count = if rng.chance(bursts) { rng.between(2, MAX_BURST) } else { 1 };
        for _ in 0..count {
            let rng = &mut self.cx.rng.traffic;
            let hits = rng.pick(1, &[1, 1, 1, 1, 2, 5, 0]);
            let hits = if rng.chance(1) { u32::MAX } else { hits };
            let Some(core) = self.core_for(user) else { return };
            let boot = self.regions[core.region.0].cores[core.core.0].boot;
            let cx = &mut self.cx;
            let soon = cx.rng.traffic.between(0, if count > 1 { BURST_US } else { 0 });
            let first = Asked::of(user, hits);
            let draws_books = cx.plan.scenario == Scenario::Books && limit_set == LimitSet::Short;
            let asked =
                if draws_books { draw_descriptors(&mut cx.rng.descriptors, first, cx.plan.users) } else { vec![first] };
            cx.send_client_check(cx.now + soon, core, boot, (limit_set, asked));
        }
    }

    /// Sends a check of the user in a region, and schedules the next one.
    pub(super) fn next_check_of(&mut self, region: RegionIndex) {
        let cx = &mut self.cx;
        let demand = cx.plan.demand.as_ref();
        let Some(longest_us) = demand.and_then(|demand| demand.longest_pause_us(region, cx.now)) else { return };
        if cx.now >= cx.plan.heals_at || cx.is_check_limit_reached() {
            return;
        }
        let pause = cx.rng.traffic.between(1, longest_us);
        cx.schedule_in(pause, Event::NextCheckOf(region));
        if let Some(core) = self.core_in(region, 0) {
            let boot = self.regions[core.region.0].cores[core.core.0].boot;
            self.cx.send_client_check(self.cx.now, core, boot, (LimitSet::ShortOnly, vec![Asked::of(0, 1)]));
        }
    }

    /// Sends the check of a denied client to another region, and the user's next checks, too.
    pub(super) fn hop(&mut self, denied: CheckIndex) {
        let ClientCheck { core, limit_set, ref asked, .. } = *self.check(denied);
        let (user, asked) = (self.check(denied).user(), asked.clone());
        let others = self.regions.len().saturating_sub(1);
        if others == 0 || self.cx.now >= self.cx.plan.heals_at || self.cx.is_check_limit_reached() {
            return;
        }
        let further = 1 + self.cx.rng.hops.index(others);
        let region = RegionIndex((core.region.0 + further) % self.regions.len());
        if let Some(home) = self.region_of_user.get_mut(user as usize) {
            *home = region;
        }
        if let Some(core) = self.core_in(region, user) {
            let boot = self.regions[core.region.0].cores[core.core.0].boot;
            self.cx.send_client_check(self.cx.now, core, boot, (limit_set, asked));
        }
    }

    /// Returns the core for a user's next check, or `None` if no core is alive. If no core of the user's region is
    /// alive, the user goes to the next region.
    fn core_for(&mut self, user: u32) -> Option<CoreId> {
        let count = self.regions.len();
        let home = self.region_of_user.get(user as usize).copied().unwrap_or_default();
        let roams = self.cx.rng.hops.chance(self.cx.plan.traffic.roam);
        let first = if roams { self.cx.rng.hops.index(count) } else { home.0 };
        (0..count).find_map(|next| self.core_in(RegionIndex((first + next) % count), user))
    }

    /// Returns the core of a region for a user's next check, or `None` if no core is alive there.
    fn core_in(&mut self, region: RegionIndex, user: u32) -> Option<CoreId> {
        let cores = &self.regions[region.0].cores;
        let count = cores.len();
        let first = if self.cx.plan.traffic.sticky {
            usize::try_from(user).unwrap_or(0)
        } else {
            usize::try_from(self.cx.rng.traffic.between(0, count as u64)).unwrap_or(0)
        };
        let core = (0..count).map(|next| (first + next) % count).find(|core| cores[*core].alive)?;
        Some(CoreId { region, core: CoreIndex(core) })
    }

    /// Sends one check after all faults have ended, and waits for its answer. Returns true if the check was allowed.
    pub(super) fn probe(&mut self, core: CoreId, limit_set: LimitSet, user: u32) -> bool {
        let (at, timeout_us) = (self.cx.now, self.cx.plan.deadline_us);
        let index = self.cx.send_check(ClientCheck {
            sent_at: at,
            received_at: at,
            timeout_us,
            core,
            boot: self.regions[core.region.0].cores[core.core.0].boot,
            limit_set,
            asked: vec![Asked::of(user, 1)],
            probe: true,
            answer: None,
        });
        while self.check(index).answer.is_none() && self.cx.now <= at + timeout_us {
            self.run_until(self.cx.now + PROBE_STEP_US);
        }
        self.check(index).is_allowed()
    }

    fn check(&self, index: CheckIndex) -> &ClientCheck {
        &self.cx.history.checks[index.0]
    }

    /// Draws a core of a region.
    pub(super) fn draw_core(&mut self, region: RegionIndex) -> CoreId {
        let count = self.regions[region.0].cores.len();
        CoreId { region, core: CoreIndex(self.cx.rng.traffic.index(count)) }
    }
}
