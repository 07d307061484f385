//! What may come on top of a limit: rules that changed, a store that forgot or did not reply, and clocks that were set.

use std::collections::BTreeSet;

use crate::history::History;
use crate::ids::{Counter, Instant, RegionIndex};
use crate::scenario::{Edit, Plan, Scenario, capacity, horizon_us, on_partition, quota};
use limiter::rules::{Algorithm, Limit, OnStoreFailure};

/// One counter's limit and what may come on top of it.
pub struct Allowance<'a> {
    plan: &'a Plan,
    history: &'a History,
    counter: Counter,
    /// True if one core received all grants. That core knows all of them, so the store cannot forget one.
    sole_holder: bool,
    horizon_us: u64,
    /// Each edit with the time from which and until which it was in force at some core of the region, by edit.
    in_force: Vec<(&'a Edit, Instant, Instant)>,
    /// The time of each grant, and the sum of the tokens until then.
    granted: Vec<(Instant, u64)>,
}

impl<'a> Allowance<'a> {
    pub fn new(plan: &'a Plan, history: &'a History, counter: Counter) -> Self {
        let versions = || plan.terms_of(counter);
        let granted = history.granted.get(&counter).map(Vec::as_slice).unwrap_or_default();
        let holders: BTreeSet<_> = granted.iter().map(|grant| (grant.core, grant.boot)).collect();
        // A core remembers only the two newest cells of a rolling window.
        let is_rolling = versions().any(|limit| limit.algorithm == Algorithm::RollingWindow);
        let sole_holder = holders.len() == 1 && !is_rolling && plan.scenario != Scenario::Memory;
        let horizon_us = versions().map(horizon_us).max().unwrap_or(0);
        let sums = granted.iter().scan(0, |sum, grant| {
            *sum += grant.tokens;
            Some((grant.at, *sum))
        });
        let in_force = in_force(plan, history, counter.region);
        Self { plan, history, counter, sole_holder, horizon_us, in_force, granted: sums.collect() }
    }

    /// Returns the length of a limit's windows, in microseconds.
    pub fn window_us(&self, limit: &Limit) -> Option<u64> {
        self.plan.window_us(limit)
    }

    /// Returns the edits that were in force at some core of the counter's region between two times.
    pub fn edits(&self, from: Instant, to: Instant) -> impl Iterator<Item = &'a Edit> {
        let in_force = self.in_force.iter().filter(move |(_, since, until)| *since <= to && from <= *until);
        in_force.map(|(edit, ..)| *edit)
    }

    /// Returns the versions of the limit that were in force at some core of the region between two times.
    pub fn limits(&self, from: Instant, to: Instant) -> impl Iterator<Item = &'a Limit> {
        let counter = self.counter;
        self.edits(from, to).filter_map(move |edit| edit.rules.terms_of(&counter))
    }

    /// Returns the largest limit that was in force at some core of the region between two times.
    pub fn largest(&self, from: Instant, to: Instant) -> u64 {
        self.limits(from, to).map(quota).max().unwrap_or(0)
    }

    /// Returns the largest part of `hits` that weights in force between two times give to the region.
    pub fn part_of(&self, hits: u64, from: Instant, to: Instant) -> u64 {
        let region = self.counter.region;
        self.edits(from, to).map(|edit| edit.part_of(region).of(hits)).max().unwrap_or(0)
    }

    /// Returns the hits that the store may have admitted twice between two times, because it forgot them or because its
    /// clock was set. Each time that the clock was set allows for `limit` hits.
    pub fn forgotten(&self, from: Instant, to: Instant, limit: u64) -> u64 {
        let earliest = from.saturating_sub(self.horizon_us);
        let jumps = self.history.clock_jumps_of(&self.counter).iter();
        let by_jumps = jumps.filter(|jump| (earliest..=to).contains(&jump.at)).count() as u64;
        let by_jumps = by_jumps.saturating_mul(limit);
        by_jumps.saturating_add(self.forgotten_charges(from, to))
    }

    /// Returns the hits that the store may have admitted twice between two times, because it forgot them.
    pub fn forgotten_charges(&self, from: Instant, to: Instant) -> u64 {
        let earliest = from.saturating_sub(self.horizon_us);
        if self.sole_holder {
            return 0;
        }
        let granted_until = |instant: Instant| {
            let later = self.granted.partition_point(|(at, _)| *at <= instant);
            later.checked_sub(1).map_or(0, |last| self.granted[last].1)
        };
        let granted_between = |since: Instant, at: Instant| {
            granted_until(at).saturating_sub(granted_until(since.max(earliest.saturating_sub(1))))
        };
        let forgotten = self.history.forgotten.get(&self.counter).map(Vec::as_slice).unwrap_or_default();
        let forgotten = forgotten.iter().filter(|it| (earliest..=to).contains(&it.at));
        forgotten.map(|it| granted_between(it.since, it.at)).sum::<u64>()
    }

    /// Returns the hits that edits forgave between two times. An edit that makes a bucket smaller forgives what the
    /// bucket lacks beyond its new size.
    pub fn forgiven(&self, from: Instant, to: Instant) -> u64 {
        let versions: Vec<&Limit> = self.limits(from, to).collect();
        let forgiven = versions.windows(2).map(|pair| capacity(pair[0]).saturating_sub(capacity(pair[1])));
        forgiven.fold(0, u64::saturating_add)
    }

    /// Returns what cores may admit without the store in one window of `limit`, if they may admit `shares` parts of
    /// [`Self::divisor`]. If regions share the limit, the region divides its weighted part of it.
    pub fn without_store(&self, limit: u64, shares: u64, from: Instant, to: Instant) -> u64 {
        let is_shared = self.limits(from, to).any(|limit| on_partition(limit).is_some());
        let divided = if is_shared { self.part_of(limit, from, to) } else { limit };
        divided.saturating_mul(shares) / self.divisor()
    }

    /// Returns how many times the limit cores may admit without the store, in parts of [`Self::divisor`]. Returns
    /// `None` if they may admit any number of hits.
    pub fn shares(&self) -> Option<u64> {
        let modes: Vec<OnStoreFailure> = self.plan.terms_of(self.counter).map(|limit| limit.on_store_failure).collect();
        if modes.contains(&OnStoreFailure::Allow) {
            return None;
        }
        if !modes.contains(&OnStoreFailure::Local) {
            return Some(0);
        }
        let in_region = self.history.rules_received.iter().filter(|it| it.core.region == self.counter.region);
        let boots: BTreeSet<_> = in_region.map(|it| (it.core, it.boot)).collect();
        Some((boots.len() as u64).max(self.divisor()))
    }

    pub fn divisor(&self) -> u64 {
        self.plan.divisor()
    }
}

/// Returns each edit with the time from which and until which it was in force at some core of a region, by edit.
fn in_force<'a>(plan: &'a Plan, history: &History, region: RegionIndex) -> Vec<(&'a Edit, Instant, Instant)> {
    let received: Vec<_> = history.rules_received.iter().filter(|it| it.core.region == region).collect();
    let spans = plan.edits.iter().filter_map(|edit| {
        let of_edit = received.iter().filter(|it| it.revision == edit.book.revision);
        let since = of_edit.clone().map(|it| it.at).min()?;
        // A core has the edit until it receives another one. Checks that wait keep their rules.
        let replaced = of_edit.map(|it| {
            let later = received.iter().filter(|later| later.core == it.core && later.revision > it.revision);
            later.map(|later| later.at + plan.deadline_us).min().unwrap_or(Instant::MAX)
        });
        Some((edit, since, replaced.max()?))
    });
    spans.collect()
}
