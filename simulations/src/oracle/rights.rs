//! Rights follow the demand: a region is not denied for long while other regions hold rights. It is stated for links
//! that work, for stores that do not forget, and for answers that come within half of `partition_after`.

use std::collections::BTreeMap;

use super::hits::clock;
use super::violation::Violation;
use crate::history::{ClientCheck, History};
use crate::ids::{Instant, RegionIndex};
use crate::scenario::{Plan, is_escrow, quota};

/// A region that needs rights gets some within so many round trips, and so many microseconds.
const FOLLOWS_WITHIN_ROUND_TRIPS: u64 = 4;
const FOLLOWS_WITHIN_US: u64 = 500_000;

/// What became of the demand for one counter under escrow, in windows that began after all lanes were known.
#[derive(Clone, Debug, Default)]
pub struct DemandMet {
    /// Checks of one hit that would have fitted into the limit.
    pub legitimate: u64,
    /// Those of them that were denied.
    pub denied: u64,
    /// The longest round trip between two regions, in microseconds.
    pub round_trip_us: u64,
    /// The longest time in which a region was denied again and again, in microseconds, and when that ended.
    pub longest_us: u64,
    pub longest_at: Instant,
    /// The longest pause between two checks of that region, in microseconds.
    pub pause_us: u64,
    /// The time in which the region was denied again and again that was denied first after the demand had moved, in
    /// microseconds. 0 if none was denied, or only one check.
    pub followed_us: u64,
}

/// Returns what became of the demand. Returns `None` if the plan has no demand for a limit under escrow.
pub fn demand_met(plan: &Plan, history: &History) -> Option<DemandMet> {
    plan.demand.as_ref().filter(|_| plan.faults.is_empty())?;
    let (index, limit) = plan.limits().iter().enumerate().find(|(_, limit)| is_escrow(limit))?;
    let window_us = plan.window_us(limit)?;
    let window = |region: RegionIndex, at| clock(plan, history, &plan.counter(region, index, 0), at) / window_us;
    // Lanes become known in the first window. The second one is the first that shows what regions used before. Of a
    // calendar, a simulation sees only the second one.
    let skipped = if plan.calendar.is_some() { 1 } else { 2 };
    let first = plan.regions.indices().map(|region| window(region, 0)).max().unwrap_or(0) + skipped;
    let mut answers: Vec<(Instant, &ClientCheck)> = history
        .checks
        .iter()
        .filter(|check| !check.probe && check.hits() == 1 && check.sent_at < plan.heals_at)
        .filter(|check| plan.limits_of(check.limit_set).any(|at| at == index))
        .filter_map(|check| Some((check.answer.as_ref()?.0, check)))
        .collect();
    answers.sort_by_key(|(at, _)| *at);
    let regions = plan.regions.indices();
    let pairs = regions.clone().flat_map(|a| regions.clone().map(move |b| (a, b)));
    let round_trips = pairs.map(|(a, b)| plan.regions.delay_us(a, b) + plan.regions.delay_us(b, a));
    let mut met = DemandMet { round_trip_us: round_trips.max().unwrap_or(0), ..DemandMet::default() };
    let mut admitted: BTreeMap<u64, u64> = BTreeMap::new();
    let mut denied_since: BTreeMap<RegionIndex, (u64, Instant)> = BTreeMap::new();
    let moves_at = plan.demand.as_ref().map_or(Instant::MAX, |demand| demand.moves_at);
    let mut denied_after_move: Option<(RegionIndex, Instant)> = None;
    for (at, check) in answers {
        let region = check.core.region;
        let window = window(region, at);
        let used = admitted.entry(window).or_default();
        if check.is_allowed() {
            *used += 1;
            denied_since.remove(&region);
        } else if *used >= quota(limit) {
            continue;
        }
        if window < first {
            continue;
        }
        met.legitimate += 1;
        if check.is_allowed() {
            continue;
        }
        met.denied += 1;
        let since = denied_since.get(&region).filter(|(of, _)| *of == window).map_or(at, |(_, since)| *since);
        denied_since.insert(region, (window, since));
        if at - since > met.longest_us {
            (met.longest_us, met.longest_at) = (at - since, at);
            met.pause_us = plan.longest_pause_us(region, at);
        }
        if at >= moves_at {
            let first = *denied_after_move.get_or_insert((region, since));
            if first == (region, since) {
                met.followed_us = at - since.max(moves_at);
            }
        }
    }
    Some(met)
}

pub fn judge(plan: &Plan, history: &History, found: &mut Vec<Violation>) {
    let Some(met) = demand_met(plan, history) else { return };
    if plan.rights_answer_us(met.round_trip_us) > plan.gossip.partition_after_us / 2 {
        return;
    }
    // Each question brings half of what another region has left. If no replica confirms that, the region asks again at
    // its next denial.
    let stated = FOLLOWS_WITHIN_ROUND_TRIPS * met.round_trip_us + FOLLOWS_WITHIN_US + met.pause_us;
    if met.longest_us > stated {
        let text =
            format!("a region was denied for {} us while others held rights, at most {stated} us", met.longest_us);
        found.push(Violation { promise: "rights", at: met.longest_at, text });
    }
}
