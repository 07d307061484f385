//! What a promise makes allowances for: rules that changed, a store that forgot or was not there, clocks that were set.

use std::collections::BTreeSet;

use crate::faults::Instant;
use crate::ledger::{Counter, Ledger};
use crate::plan::Plan;
use crate::run::{most, reach_us};
use crate::scenario::Scenario;
use limiter::rules::{Algorithm, Limit, OnStoreFailure, Quota};

/// One counter's limit with what may come on top of it.
pub struct Allowance<'a> {
    plan: &'a Plan,
    ledger: &'a Ledger,
    counter: Counter,
    /// Whoever granted anything knew all of it, so nothing of it can be forgotten.
    lone: bool,
    reach_us: u64,
    /// The instant of each grant, and the sum of all grants up to it.
    granted: Vec<(Instant, u64)>,
}

impl<'a> Allowance<'a> {
    pub fn new(plan: &'a Plan, ledger: &'a Ledger, counter: Counter) -> Self {
        let versions = || plan.edits.iter().filter_map(|edit| edit.limits.get(counter.limit));
        let granted = ledger.granted.get(&counter).map(Vec::as_slice).unwrap_or_default();
        let holders: BTreeSet<_> = granted.iter().map(|granted| (granted.holder, granted.boot)).collect();
        // Of a rolling window a core remembers the newest two cells.
        let rolls = versions().any(|limit| limit.algorithm == Algorithm::RollingWindow);
        let lone = holders.len() == 1 && !rolls && plan.scenario != Scenario::Memory;
        let reach_us = versions().map(reach_us).max().unwrap_or(0);
        let sums = granted.iter().scan(0, |sum, granted| {
            *sum += granted.tokens;
            Some((granted.at, *sum))
        });
        Self { plan, ledger, counter, lone, reach_us, granted: sums.collect() }
    }

    /// The limits that were in force at some core between two instants.
    pub fn in_force(&self, from: Instant, to: Instant) -> impl Iterator<Item = &'a Limit> {
        let (plan, ledger, at) = (self.plan, self.ledger, self.counter.limit);
        plan.edits
            .iter()
            .enumerate()
            .filter(move |(place, edit)| {
                let next = plan.edits.get(place + 1).map(|next| next.book.revision);
                let told =
                    |revision| ledger.told.iter().filter(move |told| told.2 == revision).map(|told| told.3).max();
                // Checks that are under way keep their rules.
                let until = next.and_then(told).map_or(u64::MAX, |told| told + plan.deadline_us);
                edit.at <= to && from <= until
            })
            .filter_map(move |(_, edit)| edit.limits.get(at))
    }

    /// Hits that may have been admitted twice by the store between two instants, because it forgot them, or because
    /// its clock was set, at `limit` a time.
    pub fn forgotten(&self, from: Instant, to: Instant, limit: u64) -> u64 {
        let earliest = from.saturating_sub(self.reach_us);
        let primary = self.ledger.primary.get(&self.counter);
        let leaps = primary.and_then(|primary| self.ledger.leaps.get(primary)).map(Vec::as_slice).unwrap_or_default();
        let leaps = leaps.iter().filter(|leap| (earliest..=to).contains(&leap.at)).count() as u64 * limit;
        if self.lone {
            return leaps;
        }
        let forgot = self.ledger.forgot.get(&self.counter).map(Vec::as_slice).unwrap_or_default();
        let by = |instant: Instant| {
            let later = self.granted.partition_point(|(at, _)| *at <= instant);
            later.checked_sub(1).map_or(0, |last| self.granted[last].1)
        };
        let of = |since: Instant, at: Instant| by(at).saturating_sub(by(since.max(earliest.saturating_sub(1))));
        let forgot = forgot.iter().filter(|forgot| (earliest..=to).contains(&forgot.at));
        leaps + forgot.map(|forgot| of(forgot.since, forgot.at)).sum::<u64>()
    }

    /// Hits that edits forgave between two instants: what a bucket lacks beyond the size that it is given.
    pub fn forgiven(&self, from: Instant, to: Instant) -> u64 {
        let rules: Vec<&Limit> = self.in_force(from, to).collect();
        rules.windows(2).map(|pair| most(pair[0]).saturating_sub(most(pair[1]))).sum()
    }

    /// How many times the limit cores admit by themselves at most, in parts of [`Self::divisor`]; `None` where any number.
    pub fn shares(&self) -> Option<u64> {
        let limit = self.plan.edits.first()?.limits.get(self.counter.limit)?;
        match limit.on_store_failure {
            OnStoreFailure::Allow => None,
            OnStoreFailure::Deny => Some(0),
            OnStoreFailure::Local => {
                let boots: BTreeSet<_> = self.ledger.told.iter().map(|told| (told.0, told.1)).collect();
                Some((boots.len() as u64).max(self.divisor()))
            }
        }
    }

    pub fn divisor(&self) -> u64 {
        self.plan.divisor()
    }
}

/// Hits of a quota.
pub const fn hits(limit: &Limit) -> u64 {
    match limit.limit {
        Quota::Hits(hits) => hits,
        Quota::Unlimited => u64::MAX,
    }
}
