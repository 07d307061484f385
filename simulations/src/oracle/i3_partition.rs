//! I3 during a partition: a region that is not heard admits at most its weighted part of the limit
//! (`on_partition: share`), or nothing (`on_partition: deny`).

use super::allowance::Allowance;
use super::hits::{AdmittedHits, Usage};
use super::violation::Violation;
use super::window_use::WindowUse;
use crate::faults::FaultKind;
use crate::history::History;
use crate::ids::{Instant, RegionIndex};
use crate::scenario::{Plan, describe, on_partition};
use limiter::rules::{Algorithm, OnPartition};

pub fn judge(plan: &Plan, history: &History, usages: &[Usage], found: &mut Vec<Violation>) {
    for usage in usages {
        let Some(limit) = plan.limits().get(usage.counter.limit).filter(|limit| on_partition(limit).is_some()) else {
            continue;
        };
        let Some(window) = WindowUse::of(limit) else { continue };
        let allowance = Allowance::new(plan, history, usage.counter);
        let bound = Bound { plan, window, allowance, hits: &usage.hits };
        let partitions = partitions(plan, usage.counter.region);
        let excess =
            partitions.into_iter().find_map(|partition| bound.deny(partition).or_else(|| bound.share(partition)));
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
    allowance: Allowance<'a>,
    hits: &'a [AdmittedHits],
}

/// When a bound was exceeded, and a description.
type Excess = (Instant, String);

impl Bound<'_> {
    /// Returns how hits were admitted while every core of the region had to deny them.
    fn deny(&self, partition: Partition) -> Option<Excess> {
        let is_during = |hit: &&AdmittedHits| hit.sent_at > partition.noticed && hit.answered_at < partition.end;
        let is_denied = |hit: &&AdmittedHits| {
            self.modes(hit.sent_at, hit.answered_at).all(|on_partition| on_partition == OnPartition::Deny)
        };
        let hit = self.hits.iter().filter(is_during).find(is_denied)?;
        Some((hit.answered_at, format!("{} hits were admitted during a partition", hit.hits)))
    }

    /// Returns how more hits were admitted than the region's part, while no core of the region decided otherwise.
    fn share(&self, partition: Partition) -> Option<Excess> {
        let by_store: Vec<&AdmittedHits> = self.hits.iter().filter(|hit| !hit.degraded).collect();
        // Until then, checks may end that began before. Tokens in advance go back when a core learns of a partition.
        let begin = partition.noticed + self.plan.deadline_us;
        let is_during = |hit: &AdmittedHits| hit.sent_at > begin && hit.answered_at < partition.end;
        by_store.iter().filter(|last| is_during(last)).find_map(|last| {
            let until = by_store.iter().filter(|hit| hit.answered_at <= last.answered_at).copied();
            let is_later = self.is_later_window(last, begin);
            let since = if is_later { last.answered_at.saturating_sub(self.age(last)) } else { partition.begin };
            if self.modes(since, last.answered_at).any(|on_partition| on_partition == OnPartition::Open) {
                return None;
            }
            // During an edit, the largest limit and the largest weight in force count.
            let limit = self.allowance.largest(since, last.answered_at);
            let (used, shared_out) = if is_later {
                (self.window.used(until, last), limit)
            } else {
                // The window in which the partition was noticed: what the region used before is not shared out.
                let before = until.clone().filter(|hit| hit.answered_at < partition.begin);
                let before = self.window.hits(self.window.used(before, last));
                let left = limit.saturating_sub(u64::try_from(before).unwrap_or(u64::MAX));
                (self.window.used(until.filter(|hit| is_during(hit)), last), left)
            };
            let bound = self.allowance.part_of(shared_out, since, last.answered_at);
            let hits = self.window.hits(used);
            (used > self.window.parts(bound))
                .then(|| (last.answered_at, format!("{hits} hits during a partition, at most {bound}")))
        })
    }

    /// Returns what the rules said in force at some core of the region between two times.
    fn modes(&self, from: Instant, to: Instant) -> impl Iterator<Item = OnPartition> {
        self.allowance.limits(from, to).filter_map(on_partition)
    }

    /// Returns how long before a hit the first hits may be that count with it, in microseconds.
    fn age(&self, last: &AdmittedHits) -> u64 {
        match self.window.algorithm {
            Algorithm::FixedWindow => last.to % self.window.us,
            _ => 2 * self.window.us,
        }
    }

    /// True if the region knew of the partition when the window of the hit began.
    fn is_later_window(&self, last: &AdmittedHits, noticed: Instant) -> bool {
        last.answered_at.saturating_sub(self.age(last)) > noticed
    }
}
