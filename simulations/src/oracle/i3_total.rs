//! I3 of all regions together: in a window, they admit at most the limit, and what each of the others admitted within
//! the staleness.

use std::collections::BTreeMap;

use super::hits::{Usage, clock};
use super::violation::Violation;
use crate::history::{Grant, History};
use crate::ids::{Counter, RegionIndex};
use crate::scenario::{Plan, describe, on_partition, quota};
use limiter::rules::{Algorithm, Period};

/// What all regions admitted in one window of a fixed window's counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowTotal {
    /// The index of the limit among all limits.
    pub limit: usize,
    pub user: Option<u32>,
    /// The number of the window since the Unix epoch.
    pub window: u64,
    pub quota: u64,
    pub admitted: u64,
    /// What the others admitted within the staleness when a region admitted last, and what stays below the floor.
    pub unheard: u64,
}

impl WindowTotal {
    /// Returns the most hits that may be admitted.
    pub const fn bound(&self) -> u64 {
        self.quota + self.unheard
    }

    /// Returns the hits that were admitted above the bound. It is never more than 0.
    pub fn excess(&self) -> i64 {
        let signed = |hits: u64| i64::try_from(hits).unwrap_or(i64::MAX);
        signed(self.admitted) - signed(self.bound())
    }

    /// Returns the admitted hits for each hit of the limit.
    #[expect(clippy::cast_precision_loss, reason = "hits of a simulation")]
    pub fn ratio(&self) -> f64 {
        self.admitted as f64 / self.quota.max(1) as f64
    }
}

/// Returns the totals of all windows in the phase with faults. Returns none if the plan has faults, edits, or clocks
/// that are far apart: the bound is stated for links that work.
pub fn window_totals(plan: &Plan, history: &History, usages: &[Usage]) -> Vec<WindowTotal> {
    if plan.regions.count() < 2 || !plan.faults.is_empty() || plan.edits.len() > 1 {
        return Vec::new();
    }
    let mut totals = Vec::new();
    for (at, limit) in plan.limits().iter().enumerate() {
        let Period::Window { ms } = limit.period else { continue };
        let is_judged = limit.algorithm == Algorithm::FixedWindow && on_partition(limit).is_some();
        let window_us = ms * 1000;
        if !is_judged || plan.regions.clock_spread_us() >= window_us {
            continue;
        }
        let mut by_window: BTreeMap<(Counter, u64), u64> = BTreeMap::new();
        let of_limit = usages.iter().filter(|usage| usage.counter.limit == at);
        for (counter, hit) in of_limit.flat_map(|usage| usage.hits.iter().map(|hit| (usage.counter, hit))) {
            let window = hit.to / window_us;
            if hit.answered_at < plan.heals_at && hit.from / window_us == window && !hit.degraded {
                *by_window.entry((counter.in_region(RegionIndex::default()), window)).or_default() += hit.hits;
            }
        }
        totals.extend(by_window.into_iter().map(|((counter, window), admitted)| {
            let unheard = unheard(plan, history, counter, (window, window_us));
            WindowTotal { limit: at, user: counter.user, window, quota: quota(limit), admitted, unheard }
        }));
    }
    totals
}

/// Returns what the region that was granted tokens last in a window need not have heard of the others then.
fn unheard(plan: &Plan, history: &History, counter: Counter, (window, window_us): (u64, u64)) -> u64 {
    let grants = |region: RegionIndex| {
        let counter = counter.in_region(region);
        let grants = history.granted.get(&counter).map(Vec::as_slice).unwrap_or_default();
        let is_inside =
            move |grant: &&Grant| grant.tokens > 0 && clock(plan, history, &counter, grant.at) / window_us == window;
        grants.iter().filter(is_inside)
    };
    let regions = plan.regions.indices();
    let last = regions.clone().filter_map(|region| Some((grants(region).map(|grant| grant.at).max()?, region))).max();
    let Some((at, last)) = last else { return 0 };
    let others = regions.filter(|region| *region != last);
    let quota = plan.limits().get(counter.limit).map_or(0, quota);
    let floor = quota * u64::from(plan.gossip.floor_thousandths) / 1000;
    let unheard = others.map(|region| {
        let since = at.saturating_sub(plan.usual_staleness_us(region, last));
        let new: u64 = grants(region).filter(|grant| grant.at > since).map(|grant| grant.tokens).sum();
        new + floor
    });
    unheard.sum()
}

pub fn judge(plan: &Plan, history: &History, usages: &[Usage], found: &mut Vec<Violation>) {
    for total in window_totals(plan, history, usages) {
        if total.admitted > total.bound() {
            let limit = plan.limits().get(total.limit).map(describe).unwrap_or_default();
            let WindowTotal { admitted, quota, unheard, .. } = total;
            let text = format!("{limit}: all regions admitted {admitted}, at most {quota} and {unheard} unheard");
            found.push(Violation { promise: "I3", at: plan.heals_at, text });
        }
    }
}
