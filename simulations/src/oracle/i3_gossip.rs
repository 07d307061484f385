//! I3: with `gossip`, a region admits hits of a counter only as long as they fit beside all hits that it must know of:
//! its own, and those that it has heard from other regions.

use std::collections::BTreeMap;

use super::allowance::Allowance;
use super::hearing::Hearing;
use super::hits::{AdmittedHits, Usage, clock, is_clock_known};
use super::violation::Violation;
use super::window_use::WindowUse;
use crate::history::History;
use crate::ids::{Counter, Instant, RegionIndex};
use crate::scenario::{Plan, describe, on_partition, quota};
use limiter::rules::{Consistency, Limit};

pub fn judge(plan: &Plan, history: &History, usages: &[Usage], found: &mut Vec<Violation>) {
    let is_shared =
        |counter: Counter| plan.limits().get(counter.limit).is_some_and(|limit| on_partition(limit).is_some());
    let by_store: BTreeMap<Counter, Vec<AdmittedHits>> = usages
        .iter()
        .filter(|usage| is_shared(usage.counter))
        .map(|usage| (usage.counter, usage.hits.iter().filter(|hit| !hit.degraded).copied().collect()))
        .collect();
    for (counter, own) in &by_store {
        let Some(limit) = plan.limits().get(counter.limit) else { continue };
        let Some(known) = Known::new(plan, history, (limit, *counter), own, &by_store) else { continue };
        found.extend(own.iter().find_map(|last| known.excess(last)).map(|(at, text)| Violation {
            promise: "I3",
            at,
            text: format!("{} ({}): {text}", describe(limit), plan.owner(counter)),
        }));
    }
}

/// What a region must know of a counter.
struct Known<'a> {
    plan: &'a Plan,
    history: &'a History,
    limit: &'a Limit,
    counter: Counter,
    window: WindowUse,
    allowance: Allowance<'a>,
    own: &'a [AdmittedHits],
    others: Vec<Other<'a>>,
}

/// What another region admitted.
struct Other<'a> {
    counter: Counter,
    hearing: Hearing,
    hits: &'a [AdmittedHits],
}

impl<'a> Known<'a> {
    /// Returns `None` for a counter without a window.
    fn new(
        plan: &'a Plan,
        history: &'a History,
        (limit, counter): (&'a Limit, Counter),
        own: &'a [AdmittedHits],
        by_store: &'a BTreeMap<Counter, Vec<AdmittedHits>>,
    ) -> Option<Self> {
        let same = |region: RegionIndex| counter.in_region(region);
        let others = plan.regions.indices().filter(|region| *region != counter.region).filter_map(|region| {
            let hits = by_store.get(&same(region))?;
            Some(Other { counter: same(region), hearing: Hearing::new(plan, region, counter.region), hits })
        });
        let (window, allowance) = (WindowUse::of(limit)?, Allowance::new(plan, history, counter));
        Some(Self { plan, history, limit, counter, window, allowance, own, others: others.collect() })
    }

    /// Returns how the grant of `last` exceeded the limit.
    fn excess(&self, last: &AdmittedHits) -> Option<(Instant, String)> {
        // Tokens in advance were granted when less was known.
        let lease_us = if self.limit.consistency == Some(Consistency::Leased) { self.plan.lease_us } else { 0 };
        let granted = last.sent_at.saturating_sub(lease_us);
        let own = self.own.iter().filter(|hit| hit.answered_at <= granted || std::ptr::eq(*hit, last));
        let own = own.filter(|hit| self.window.weight(hit, last) > 0);
        let from = own.clone().map(|hit| hit.sent_at).min()?;
        let own = self.window.used(own, last);
        let heard = self.others.iter().map(|other| self.heard(other, granted, last)).sum::<u128>();
        let max = self.allowance.largest(from, last.answered_at);
        let max = max + self.allowance.forgotten(from, last.answered_at, max);
        (own + heard > self.window.parts(max)).then(|| {
            let (own, heard) = (self.window.hits(own), self.window.hits(heard));
            let text =
                format!("{own} hits here and {heard} that were heard from other regions, at most {max} together");
            (last.answered_at, text)
        })
    }

    /// Returns the hits that the region must have heard from another one when it granted `last`, in parts.
    fn heard(&self, other: &Other<'_>, granted: Instant, last: &AdmittedHits) -> u128 {
        if other.hearing.may_have_forgotten(granted, last.answered_at) {
            return 0;
        }
        let is_known = |hit: &&AdmittedHits| {
            let since = other.hearing.known_since(hit.answered_at, granted);
            hit.answered_at <= granted
                && self.are_cells_known(other, hit, last)
                && since.is_some_and(|since| self.is_told(other, hit, since))
                && self.is_imported(hit)
        };
        let limit = self.plan.versions(self.counter.limit).map(quota).max().unwrap_or(0);
        let floor = self.window.parts(limit) * u128::from(self.plan.gossip.floor_thousandths);
        let mut by_life: BTreeMap<usize, Vec<&AdmittedHits>> = BTreeMap::new();
        for hit in other.hits.iter().filter(is_known) {
            by_life.entry(other.hearing.times_forgotten(hit.answered_at)).or_default().push(hit);
        }
        let used = by_life.into_values().map(|hits| self.window.used(hits.into_iter(), last));
        // A region does not tell of a counter of which it has used little.
        used.filter(|used| used * 1000 >= floor).sum()
    }

    /// True if no clock was set that may have changed the cell in which a hit of another region counts.
    fn are_cells_known(&self, other: &Other<'_>, hit: &AdmittedHits, last: &AdmittedHits) -> bool {
        let counters = [self.counter, other.counter];
        counters.iter().all(|counter| is_clock_known(self.history, counter, hit.sent_at, last.answered_at))
    }

    /// True if the cell of the hit still counts in its own region when the region tells it.
    fn is_told(&self, other: &Other<'_>, hit: &AdmittedHits, at: Instant) -> bool {
        let WindowUse { cell_us, cells, .. } = self.window;
        clock(self.plan, self.history, &other.counter, at) < (hit.from / cell_us + cells) * cell_us
    }

    /// True if the region imported the hit: its cell is not too far ahead of the region's clock.
    fn is_imported(&self, hit: &AdmittedHits) -> bool {
        let cell_us = self.window.cell_us;
        hit.to / cell_us <= clock(self.plan, self.history, &self.counter, hit.answered_at) / cell_us + 1
    }
}
