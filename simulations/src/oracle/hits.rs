//! The hits that each counter admitted. The oracles do not know when a hit was charged, only a range: from the sending
//! of the check to its answer, on the clock of the counter's primary.

use std::collections::BTreeMap;

use super::applied::applied_by;
use crate::history::{ClientCheck, Decided, History};
use crate::ids::{Counter, Instant};
use crate::scenario::{Applied, Plan};

/// The hits of one check that a counter admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AdmittedHits {
    pub sent_at: Instant,
    pub answered_at: Instant,
    /// The earliest reading of the primary's clock between these times, in microseconds since the Unix epoch.
    pub from: u64,
    /// The latest reading of the primary's clock between these times, in microseconds since the Unix epoch.
    pub to: u64,
    pub hits: u64,
    /// True if the node decided without the store.
    pub degraded: bool,
}

/// The hits of one counter, by `to` and then by `answered_at`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    pub counter: Counter,
    pub hits: Vec<AdmittedHits>,
}

/// Returns the usage of every counter that admitted hits.
pub fn usages(plan: &Plan, history: &History) -> Vec<Usage> {
    let mut all: BTreeMap<Counter, Vec<AdmittedHits>> = BTreeMap::new();
    for check in &history.checks {
        let (Some((answered_at, _)), Some(decided)) = (&check.answer, check.decision()) else { continue };
        let answered_at = *answered_at;
        for ((_, counter), hits) in charged(plan, check, decided) {
            let (from, to) = clock_range(plan, history, &counter, check, answered_at);
            let degraded = decided.degraded;
            let hits = AdmittedHits { sent_at: check.sent_at, answered_at, from, to, hits, degraded };
            all.entry(counter).or_default().push(hits);
        }
    }
    let sorted = all.into_iter().map(|(counter, mut hits)| {
        hits.sort_by_key(|hit| (hit.to, hit.answered_at));
        Usage { counter, hits }
    });
    sorted.collect()
}

/// Returns what a check charged, by its groups and their counters. A group that no limit denied is charged to all its
/// limits that had room.
fn charged(plan: &Plan, check: &ClientCheck, decided: &Decided) -> BTreeMap<(usize, Counter), u64> {
    let applied = applied_by(plan, check, decided.revision);
    let has_no_room = |it: &Applied<'_>| decided.has_no_room(it.descriptor, it.limit);
    let denied: Vec<usize> = applied.iter().filter(|it| it.enforces() && has_no_room(it)).map(|it| it.group).collect();
    let charged = applied.iter().filter(|it| it.hits > 0 && !denied.contains(&it.group) && !has_no_room(it));
    charged.map(|it| ((it.group, it.counter), it.hits)).collect()
}

/// True if the clock of a counter's primary was not set between two times, nor so shortly before that the counter's
/// time stands still: after a clock was set back, until the clock is there again.
pub fn is_clock_known(history: &History, counter: &Counter, from: Instant, to: Instant) -> bool {
    let jumps = history.clock_jumps_of(counter);
    let longest: u64 = jumps.iter().map(|jump| jump.to_us.abs_diff(jump.from_us)).sum();
    let since = from.saturating_sub(longest);
    !jumps.iter().any(|jump| (since..=to).contains(&jump.at))
}

/// Returns the reading of the clock of a counter's primary at an instant, in microseconds since the Unix epoch.
pub fn clock(plan: &Plan, history: &History, counter: &Counter, at: Instant) -> u64 {
    let last = history.clock_jumps_of(counter).iter().rev().find(|jump| jump.at <= at);
    let ahead_us = last.map_or(plan.regions.clock_skew_us(counter.region), |jump| jump.to_us);
    (plan.epoch_us() + at).saturating_add_signed(ahead_us)
}

/// Returns the earliest and the latest reading of the primary's clock while the check was in progress.
fn clock_range(
    plan: &Plan,
    history: &History,
    counter: &Counter,
    check: &ClientCheck,
    answered_at: Instant,
) -> (u64, u64) {
    let jumps = history.clock_jumps_of(counter);
    let mut readings = [check.sent_at, answered_at].map(|at| clock(plan, history, counter, at)).to_vec();
    for jump in jumps.iter().filter(|jump| (check.sent_at..=answered_at).contains(&jump.at)) {
        let reading = |ahead_us| (plan.epoch_us() + jump.at).saturating_add_signed(ahead_us);
        readings.extend([jump.from_us, jump.to_us].map(reading));
    }
    (readings.iter().copied().min().unwrap_or(0), readings.iter().copied().max().unwrap_or(0))
}
