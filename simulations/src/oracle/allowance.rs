//! What may come on top of a limit: rules that changed, a store that forgot or did not reply, and clocks that were set.

use std::collections::BTreeSet;

use crate::history::History;
use crate::ids::{Counter, Instant};
use crate::scenario::{Plan, Scenario, capacity, horizon_us};
use limiter::rules::{Algorithm, Limit, OnStoreFailure};

/// One counter's limit and what may come on top of it.
pub struct Allowance<'a> {
    plan: &'a Plan,
    history: &'a History,
    counter: Counter,
    /// True if one core received all grants. That core knows all of them, so the store cannot forget one.
    sole_holder: bool,
    horizon_us: u64,
    /// The time of each grant, and the sum of the tokens until then.
    granted: Vec<(Instant, u64)>,
}

impl<'a> Allowance<'a> {
    pub fn new(plan: &'a Plan, history: &'a History, counter: Counter) -> Self {
        let versions = || plan.versions(counter.limit);
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
        Self { plan, history, counter, sole_holder, horizon_us, granted: sums.collect() }
    }

    /// Returns the versions of the limit that were in force at some core between two times.
    pub fn in_force(&self, from: Instant, to: Instant) -> impl Iterator<Item = &'a Limit> {
        let (plan, history, limit) = (self.plan, self.history, self.counter.limit);
        let is_in_force = move |index: usize| {
            let next = plan.edits.get(index + 1).map(|next| next.book.revision);
            let last_received = |revision| {
                let received = history.rules_received.iter().filter(move |it| it.revision == revision);
                received.map(|it| it.at).max()
            };
            // Checks that wait keep their rules.
            let until = next.and_then(last_received).map_or(u64::MAX, |at| at + plan.deadline_us);
            from <= until
        };
        let edits = plan.edits.iter().enumerate().filter(move |(index, edit)| edit.at <= to && is_in_force(*index));
        edits.filter_map(move |(_, edit)| edit.limits.get(limit))
    }

    /// Returns the hits that the store may have admitted twice between two times, because it forgot them or because its
    /// clock was set. Each time that the clock was set allows for `limit` hits.
    pub fn forgotten(&self, from: Instant, to: Instant, limit: u64) -> u64 {
        let earliest = from.saturating_sub(self.horizon_us);
        let jumps = self.history.clock_jumps_of(&self.counter).iter();
        let by_jumps = jumps.filter(|jump| (earliest..=to).contains(&jump.at)).count() as u64 * limit;
        if self.sole_holder {
            return by_jumps;
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
        by_jumps + forgotten.map(|it| granted_between(it.since, it.at)).sum::<u64>()
    }

    /// Returns the hits that edits forgave between two times. An edit that makes a bucket smaller forgives what the
    /// bucket lacks beyond its new size.
    pub fn forgiven(&self, from: Instant, to: Instant) -> u64 {
        let versions: Vec<&Limit> = self.in_force(from, to).collect();
        versions.windows(2).map(|pair| capacity(pair[0]).saturating_sub(capacity(pair[1]))).sum()
    }

    /// Returns how many times the limit cores may admit without the store, in parts of [`Self::divisor`]. Returns
    /// `None` if they may admit any number of hits.
    pub fn shares(&self) -> Option<u64> {
        let limit = self.plan.limits().get(self.counter.limit)?;
        match limit.on_store_failure {
            OnStoreFailure::Allow => None,
            OnStoreFailure::Deny => Some(0),
            OnStoreFailure::Local => {
                let received = self.history.rules_received.iter();
                let in_region = received.filter(|it| it.core.region == self.counter.region);
                let boots: BTreeSet<_> = in_region.map(|it| (it.core, it.boot)).collect();
                Some((boots.len() as u64).max(self.divisor()))
            }
        }
    }

    pub fn divisor(&self) -> u64 {
        self.plan.divisor()
    }
}
