//! I2: with `escrow`, all regions together admit at most the limit in every labelled window, through any partition. A
//! store that forgets charges adds what it forgot, as in a region.

use std::collections::BTreeMap;

use super::allowance::Allowance;
use super::hits::{AdmittedHits, Usage, is_clock_known};
use super::violation::Violation;
use crate::history::History;
use crate::ids::{Counter, Instant, RegionIndex};
use crate::scenario::{Plan, describe, is_escrow};

/// What the regions admitted in a window.
#[derive(Default)]
struct Window {
    admitted: u64,
    begin: Option<Instant>,
    end: Instant,
}

pub fn judge(plan: &Plan, history: &History, usages: &[Usage], found: &mut Vec<Violation>) {
    for (index, limit) in plan.limits().iter().enumerate().filter(|(_, limit)| is_escrow(limit)) {
        let Some(window_us) = plan.window_us(limit) else { continue };
        let mut windows: BTreeMap<(Counter, u64), Window> = BTreeMap::new();
        for usage in usages.iter().filter(|usage| usage.counter.limit == index) {
            for (label, hit) in labelled(history, usage, window_us) {
                let window = windows.entry((usage.counter.in_region(RegionIndex::default()), label)).or_default();
                window.admitted += hit.hits;
                window.begin = Some(window.begin.unwrap_or(hit.sent_at).min(hit.sent_at));
                window.end = window.end.max(hit.answered_at);
            }
        }
        for ((counter, label), Window { admitted, begin, end }) in windows {
            let of_region = |region| Allowance::new(plan, history, counter.in_region(region));
            let allowances: Vec<Allowance<'_>> = plan.regions.indices().map(of_region).collect();
            let begin = begin.unwrap_or(end);
            let largest = allowances.iter().map(|it| it.largest(begin, end)).max().unwrap_or(0);
            let forgotten: u64 = allowances.iter().map(|it| it.forgotten_charges(begin, end)).sum();
            if admitted > largest + forgotten {
                let text = format!(
                    "{} ({}): all regions admitted {admitted} in the window that begins at {label}, at most {largest} \
                     and {forgotten} that stores forgot",
                    describe(limit),
                    counter.owner()
                );
                found.push(Violation { promise: "I2", at: end, text });
            }
        }
    }
}

/// Returns the hits whose window is certain, each with the label of its window: where it begins, in microseconds.
fn labelled<'a>(
    history: &'a History,
    usage: &'a Usage,
    window_us: u64,
) -> impl Iterator<Item = (u64, &'a AdmittedHits)> {
    let label = move |time: u64| time - time % window_us;
    let is_certain = move |hit: &&AdmittedHits| {
        label(hit.from) == label(hit.to) && is_clock_known(history, &usage.counter, hit.sent_at, hit.answered_at)
    };
    usage.hits.iter().filter(is_certain).map(move |hit| (label(hit.to), hit))
}
