//! I7: a stated time after all faults have ended, all regions agree on every count that they tell each other.

use super::violation::Violation;
use crate::faults::FaultKind;
use crate::history::{History, RegionCount};
use crate::ids::RegionIndex;
use crate::scenario::{Plan, describe, quota};

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

/// True if the region forgot hits of its own, or that hits came back. It does not hear of either from others.
fn has_forgotten(history: &History, own: &RegionCount, told: &RegionCount) -> bool {
    let charged = |count: &RegionCount| count.hits + count.returned;
    let knows_less = charged(own) <= charged(told) && own.returned <= told.returned;
    history.forgotten.contains_key(&own.counter) && (knows_less || told.hits > own.hits)
}

/// True if a server of the region lost keys without being replaced. Nobody notices that.
fn loses_keys(plan: &Plan, region: RegionIndex) -> bool {
    plan.faults_of(region).any(|fault| matches!(fault.kind, FaultKind::Flush { .. } | FaultKind::Evict { .. }))
}
