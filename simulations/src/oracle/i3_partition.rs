//! I3 during a partition: a region that is not heard admits at most its weighted part of the limit
//! (`on_partition: share`), or nothing (`on_partition: deny`).

use super::hits::{AdmittedHits, Usage};
use super::violation::Violation;
use super::window_use::WindowUse;
use crate::faults::FaultKind;
use crate::ids::{Counter, Instant, RegionIndex};
use crate::scenario::{Plan, describe, on_partition, quota};
use limiter::rules::{Algorithm, OnPartition};

pub fn judge(plan: &Plan, usages: &[Usage], found: &mut Vec<Violation>) {
    for usage in usages {
        let Some(limit) = plan.limits().get(usage.counter.limit) else { continue };
        let (Some(on_partition), Some(window)) = (on_partition(limit), WindowUse::of(limit)) else { continue };
        let bound = Bound { plan, window, counter: usage.counter, hits: &usage.hits };
        let excess = partitions(plan, usage.counter.region).into_iter().find_map(|partition| match on_partition {
            OnPartition::Open => None,
            OnPartition::Share => bound.share(partition),
            OnPartition::Deny => bound.deny(partition),
        });
        found.extend(excess.map(|(at, text)| Violation {
            promise: "I3",
            at,
            text: format!("{} ({}): {text}", describe(limit), plan.owner(&usage.counter)),
        }));
    }
}

/// A time in which all nodes of a region know that another region does not hear them.
#[derive(Clone, Copy, Debug)]
struct Partition {
    /// When the first message was lost.
    begin: Instant,
    /// All nodes have noticed it.
    noticed: Instant,
    end: Instant,
}

/// Returns the partitions of a region. A node that restarts needs a while to notice a partition again, so there is none
/// if the region has other faults.
fn partitions(plan: &Plan, region: RegionIndex) -> Vec<Partition> {
    if !plan.faults_of(region).all(|fault| fault.kind.is_between_regions()) {
        return Vec::new();
    }
    let is_cut = |kind: &FaultKind, of: RegionIndex| match *kind {
        // Acknowledgements are lost, or messages are.
        FaultKind::CutRegions { other } | FaultKind::CutRegionsOneWay { to: other } => of == region || other == region,
        _ => false,
    };
    let cuts = plan.faults.iter().filter(|fault| is_cut(&fault.kind, fault.region));
    let partition_of = cuts.map(|fault| {
        let noticed = fault.begin + plan.partition_noticed_us();
        Partition { begin: fault.begin, noticed, end: fault.end }
    });
    partition_of.filter(|partition| partition.noticed < partition.end).collect()
}

/// What a region may admit during a partition.
struct Bound<'a> {
    plan: &'a Plan,
    window: WindowUse,
    counter: Counter,
    hits: &'a [AdmittedHits],
}

/// When a bound was exceeded, and a description.
type Excess = (Instant, String);

impl Bound<'_> {
    fn deny(&self, partition: Partition) -> Option<Excess> {
        let is_during = |hit: &&AdmittedHits| hit.sent_at > partition.noticed && hit.answered_at < partition.end;
        let hit = self.hits.iter().find(is_during)?;
        Some((hit.answered_at, format!("{} hits were admitted during a partition", hit.hits)))
    }

    fn share(&self, partition: Partition) -> Option<Excess> {
        let by_store: Vec<&AdmittedHits> = self.hits.iter().filter(|hit| !hit.degraded).collect();
        // Until then, tokens may be spent that were granted before.
        let begin = partition.noticed + self.plan.lease_us + self.plan.deadline_us;
        let is_during = |hit: &AdmittedHits| hit.sent_at > begin && hit.answered_at < partition.end;
        let limit = self.plan.versions(self.counter.limit).map(quota).max().unwrap_or(0);
        let part = self.plan.part_of(self.counter.region);
        by_store.iter().filter(|last| is_during(last)).find_map(|last| {
            let until = by_store.iter().filter(|hit| hit.answered_at <= last.answered_at).copied();
            let (used, bound) = if self.is_later_window(last, begin) {
                (self.window.used(until, last), part.of(limit))
            } else {
                // The window in which the partition was noticed: what the region used before is not shared out.
                let before = until.clone().filter(|hit| hit.answered_at < partition.begin);
                let before = self.window.hits(self.window.used(before, last));
                let left = limit.saturating_sub(u64::try_from(before).unwrap_or(u64::MAX));
                (self.window.used(until.filter(|hit| is_during(hit)), last), part.of(left))
            };
            let hits = self.window.hits(used);
            (used > self.window.parts(bound))
                .then(|| (last.answered_at, format!("{hits} hits during a partition, at most {bound}")))
        })
    }

    /// True if the region knew of the partition when the window of the hit began.
    fn is_later_window(&self, last: &AdmittedHits, noticed: Instant) -> bool {
        let age = match self.window.algorithm {
            Algorithm::FixedWindow => last.to % self.window.us,
            _ => 2 * self.window.us,
        };
        last.answered_at.saturating_sub(age) > noticed
    }
}
