//! I7: a stated time after all faults have ended, all regions agree on every count that they tell each other.

use super::violation::Violation;
use crate::faults::FaultKind;
use crate::history::{History, RegionCount};
use crate::ids::RegionIndex;
use crate::scenario::{Plan, describe, quota};
use limiter::counter::Entry;

pub fn judge(plan: &Plan, history: &History, found: &mut Vec<Violation>) {
    let own = history.region_counts.iter().filter(|count| count.of == count.counter.region);
    for own in own {
        let is_same = |count: &&RegionCount| {
            (count.of, count.counter.limit, count.counter.user) == (own.of, own.counter.limit, own.counter.user)
        };
        for told in history.region_counts.iter().filter(is_same).filter(|told| told.counter.region != own.of) {
            let Some(limit) = plan.final_limits().get(own.counter.limit) else { continue };
            let is_above_floor = own.hits * 1000 >= quota(limit) * u64::from(plan.gossip.floor_thousandths);
            let agrees = told.hits == own.hits || has_forgotten(history, own, told);
            if is_above_floor && !agrees && !loses_keys(plan, told.counter.region) {
                let text = format!(
                    "{} ({}): counted {} hits, and region {} heard of {}",
                    describe(limit),
                    plan.owner(&own.counter),
                    own.hits,
                    told.counter.region,
                    told.hits
                );
                found.push(Violation { promise: "I7", at: told.at, text });
            }
        }
    }
}

/// True if the region's store has forgotten some of its own hits and returns, and the other one knows all that are
/// left. Nobody tells a region its own counts.
fn has_forgotten(history: &History, own: &RegionCount, told: &RegionCount) -> bool {
    let entries_of = |start_ms: u64| told.cells.iter().filter(move |(start, _)| *start == start_ms);
    let knows = |start_ms: u64, entry: &Entry| {
        let number = entry.incarnation.number();
        let mut entries = entries_of(start_ms).flat_map(|(_, entries)| entries);
        // A store that has dropped entries of another region keeps their sum.
        entries.any(|it| {
            let is_same = it.incarnation.number() == number || it.is_floor();
            is_same && it.charged >= entry.charged && (it.returned >= entry.returned || it.is_floor())
        })
    };
    let mut left = own.cells.iter().flat_map(|(start_ms, entries)| entries.iter().map(move |entry| (*start_ms, entry)));
    history.forgotten.contains_key(&own.counter) && left.all(|(start_ms, entry)| knows(start_ms, entry))
}

/// True if a server of the region lost keys without being replaced. Nobody notices that.
fn loses_keys(plan: &Plan, region: RegionIndex) -> bool {
    plan.faults_of(region).any(|fault| matches!(fault.kind, FaultKind::Flush { .. } | FaultKind::Evict { .. }))
}
