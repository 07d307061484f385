//! A whole simulation: a phase in which things go wrong, one in which all comes to rest, and one in which every limit must
//! be fully usable again.

use super::faults::Kind;
use super::ledger::{Fresh, Ledger};
use super::meddler::Meddler;
use super::oracle::{self, Violation};
use super::plan::{Family, LONG_MS, Plan};
use super::world::World;
use limiter::rules::{Algorithm, DEFAULT_CELLS, Limit, Period, Quota};

/// Users that only probes ask for.
pub(super) const FRESH_USERS: u32 = 80;
/// Of so many users at most the windows without end are used up.
pub(super) const DRAINED: u32 = 3;
/// More than any user's window without end allows.
const MOST_DRAINED: u32 = 700;
/// Leases are looked after so often, and silent servers, and news are known after so long; all of it, in microseconds.
const UPKEEP_US: u64 = 400_000;
/// After so much more time than is stated a region that has not come to rest never will.
const PATIENCE_US: u64 = 10_000_000;

/// How a simulation went.
pub struct Run {
    pub plan: Plan,
    pub ledger: Ledger,
    /// What happened, line by line; empty where nobody wanted to read it.
    pub story: String,
    pub violations: Vec<Violation>,
}

/// Runs a plan. `tells` says whether somebody wants to read what happened.
///
/// # Errors
/// When the script cannot be read.
pub fn run(plan: Plan, meddler: &mut dyn Meddler, tells: bool) -> mlua::Result<Run> {
    let mut world = World::new(plan, meddler, tells)?;
    world.run_until(world.plan.heals_at);
    world.tell(|_| "-- from here on nothing goes wrong".to_owned());
    world.rest();
    world.drain();
    world.refill();
    let story = world.take_story();
    let World { plan, ledger, .. } = world;
    let violations = oracle::judge(&plan, &ledger);
    Ok(Run { plan, ledger, story, violations })
}

/// Microseconds after which nothing that was charged to a limit counts any more.
pub fn reach_us(limit: &Limit) -> u64 {
    let Period::Window { ms } = limit.period else { return u64::MAX };
    let Quota::Hits(hits) = limit.limit else { return 0 };
    let ms = match limit.algorithm {
        Algorithm::FixedWindow => ms,
        Algorithm::SlidingWindow => 2 * ms,
        Algorithm::RollingWindow => {
            let cells = u64::from(limit.cells.unwrap_or(DEFAULT_CELLS));
            (cells + 1) * ms.div_ceil(cells)
        }
        Algorithm::TokenBucket => limit.burst.unwrap_or(hits) * ms / hits.max(1) + 1,
    };
    ms.saturating_mul(1000)
}

/// The most that a limit grants at once.
pub const fn most(limit: &Limit) -> u64 {
    match (limit.burst, limit.limit) {
        (Some(burst), _) => burst,
        (None, Quota::Hits(hits)) => hits,
        (None, Quota::Unlimited) => u64::MAX,
    }
}

impl World<'_> {
    /// The stated time until whatever was under way has come to rest, and the clocks are where they were.
    fn rest(&mut self) {
        let leaps = self.plan.faults.iter().map(|fault| match fault.kind {
            Kind::Leap { by_ms, .. } => by_ms.unsigned_abs() * 1000,
            _ => 0,
        });
        let Plan { lease_us, deadline_us, .. } = self.plan;
        let rest = lease_us + 2 * deadline_us + self.round_trip_us() + UPKEEP_US + leaps.sum::<u64>();
        self.run_until(self.now + rest);
        let end = self.now + PATIENCE_US;
        let is_quiet = |world: &Self| world.holders.iter().all(|it| it.shard.is_quiet() && !it.shard.has_stalled());
        self.ledger.rested_in_time = is_quiet(self);
        while !is_quiet(self) && self.now < end {
            self.run_until(self.now + UPKEEP_US);
        }
        self.ledger.rested = self.now;
        self.tell(|_| "-- all has come to rest".to_owned());
    }

    /// Takes what is left of the windows without end. Those that users share are left alone where tokens may have been lost:
    /// they say nothing then.
    fn drain(&mut self) {
        let core = self.some_core();
        self.ledger.drained_from = self.ledger.asked.len();
        for user in 0..self.plan.users.min(DRAINED) {
            self.take_all(core, Family::Solo, MOST_DRAINED, || user);
        }
        if !self.plan.is_certain() {
            return;
        }
        let mut fresh = self.plan.users;
        self.take_all(core, Family::Pair, FRESH_USERS, || {
            fresh += 1;
            fresh - 1
        });
    }

    /// Asks until it is refused; never more often than any limit of these allows.
    fn take_all(&mut self, core: usize, family: Family, most: u32, mut user: impl FnMut() -> u32) {
        for _ in 0..most {
            let user = user();
            if !self.probe(core, family, user) {
                break;
            }
        }
    }

    /// Once nothing that was charged counts any more, every limit is there in full.
    fn refill(&mut self) {
        let limits: Vec<Limit> = self.plan.edits.last().map(|edit| edit.limits.clone()).unwrap_or_default();
        let brief: Vec<&Limit> = self.plan.limits_of(Family::Brief).filter_map(|at| limits.get(at)).collect();
        let all = self.plan.edits.iter().flat_map(|edit| &edit.limits);
        let windows = all.filter(|limit| limit.period != Period::Window { ms: LONG_MS });
        let reach = windows.map(reach_us).max().unwrap_or(0);
        let whole = brief.iter().map(|limit| most(limit)).min().unwrap_or(0);
        let users = [0, self.plan.users - 1];
        for user in &users[..self.plan.users.min(2) as usize] {
            self.run_until(self.now + reach);
            let core = self.some_core();
            let from = self.ledger.asked.len();
            for _ in 0..whole {
                self.probe(core, Family::Brief, *user);
            }
            self.ledger.fresh.push(Fresh { user: *user, from, hits: whole });
        }
    }

    fn some_core(&mut self) -> usize {
        usize::try_from(self.traffic.between(0, self.holders.len() as u64 - 1)).unwrap_or(0)
    }
}
