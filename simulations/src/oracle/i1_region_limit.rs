//! I1: every counter keeps the promise of its algorithm, in the contract's words. The oracle judges the decisions of
//! the store alone, and then together with the hits that cores admitted without the store.

use super::allowance::Allowance;
use super::hits::{AdmittedHits, Usage};
use super::violation::Violation;
use crate::history::History;
use crate::ids::Instant;
use crate::scenario::{Plan, capacity, describe, quota};
use limiter::counter::MAX_LOGGED_LIMIT;
use limiter::rules::{Algorithm, Limit};

pub fn judge(plan: &Plan, history: &History, usages: &[Usage], found: &mut Vec<Violation>) {
    for usage in usages {
        let allowance = Allowance::new(plan, history, usage.counter);
        let Some(limit) = plan.terms_of(usage.counter).next() else { continue };
        let by_store: Vec<AdmittedHits> = usage.hits.iter().filter(|hit| !hit.degraded).copied().collect();
        let store_bound = Bound { limit, allowance: &allowance, shares: 0 };
        let total_bound = allowance.shares().map(|shares| Bound { shares, ..store_bound });
        let excess = store_bound.excess(&by_store).or_else(|| total_bound.and_then(|bound| bound.excess(&usage.hits)));
        found.extend(excess.map(|(at, text)| Violation {
            promise: "I1",
            at,
            text: format!("{} ({}): {text}", describe(limit), plan.owner(&usage.counter)),
        }));
    }
}

/// The bound that a counter's hits must keep.
#[derive(Clone, Copy)]
struct Bound<'a> {
    limit: &'a Limit,
    allowance: &'a Allowance<'a>,
    /// How many times the limit cores may admit without the store, in parts of the divisor.
    shares: u64,
}

/// When a bound was exceeded, and a description.
type Excess = (Instant, String);

impl Bound<'_> {
    /// Returns how `hits` exceed the bound. They are sorted by `to`.
    fn excess(self, hits: &[AdmittedHits]) -> Option<Excess> {
        let window = self.allowance.window_us(self.limit)?;
        match self.limit.algorithm {
            Algorithm::FixedWindow => self.fixed(hits, window),
            Algorithm::SlidingWindow => self.sliding(hits, window),
            Algorithm::RollingWindow => self.rolling(hits, window),
            Algorithm::TokenBucket => self.bucket(hits, window),
        }
    }

    /// Returns the largest number of hits that may be admitted by checks that were sent from `from` on and answered
    /// until `to`.
    fn max_hits(self, from: Instant, to: Instant) -> u64 {
        self.with_extras(self.allowance.largest(from, to), from, to)
    }

    fn with_extras(self, limit: u64, from: Instant, to: Instant) -> u64 {
        let without_store = self.allowance.without_store(limit, self.shares, from, to);
        limit.saturating_add(without_store).saturating_add(self.allowance.forgotten(from, to, limit))
    }

    fn fixed(self, hits: &[AdmittedHits], window: u64) -> Option<Excess> {
        let inside = |hit: &&AdmittedHits| hit.from / window == hit.to / window;
        let hits: Vec<&AdmittedHits> = hits.iter().filter(inside).collect();
        hits.chunk_by(|a, b| a.to / window == b.to / window).find_map(|cell| {
            let used: u64 = cell.iter().map(|hit| hit.hits).sum();
            let (from, to) = span(cell)?;
            let max_hits = self.max_hits(from, to);
            (used > max_hits).then(|| (to, format!("{used} in one window, at most {max_hits}")))
        })
    }

    fn sliding(self, hits: &[AdmittedHits], window: u64) -> Option<Excess> {
        let inside: Vec<&AdmittedHits> = hits.iter().filter(|hit| hit.from / window == hit.to / window).collect();
        inside.iter().find_map(|last| {
            let cell = last.to / window;
            // The charges that certainly came before, and the charge itself.
            let current: Vec<&AdmittedHits> = inside
                .iter()
                .filter(|hit| hit.to / window == cell && (hit.to <= last.from || std::ptr::eq(**hit, *last)))
                .copied()
                .collect();
            // The store may know which hits are older than the window, and leave them out, if the limit is small, or
            // was when they came.
            let in_force = self.allowance.limits(last.sent_at.saturating_sub(2 * window), last.answered_at).map(quota);
            let is_small = in_force.min().is_some_and(|limit| limit <= MAX_LOGGED_LIMIT);
            let counts = |hit: &&&AdmittedHits| !is_small || hit.from + window > last.to;
            let before: Vec<&AdmittedHits> =
                inside.iter().filter(|hit| hit.to / window + 1 == cell).filter(counts).copied().collect();
            let sum = |hits: &[&AdmittedHits]| hits.iter().map(|hit| u128::from(hit.hits)).sum::<u128>();
            let overlap = window - last.to % window;
            let used = sum(&current) * u128::from(window) + sum(&before) * u128::from(overlap);
            let (from, to) = span(&[before.as_slice(), current.as_slice()].concat())?;
            let max_hits = self.max_hits(from, to);
            (used > u128::from(max_hits) * u128::from(window)).then(|| {
                let (current, before) = (sum(&current), sum(&before));
                let part = overlap * 100 / window;
                (
                    last.answered_at,
                    format!("{current} in this window and {part} % of {before} in the one before, at most {max_hits}"),
                )
            })
        })
    }

    fn rolling(self, hits: &[AdmittedHits], window: u64) -> Option<Excess> {
        hits.iter().enumerate().find_map(|(at, last)| {
            let within: Vec<_> = hits[..=at].iter().filter(|hit| hit.from + window > last.to).collect();
            let used: u64 = within.iter().map(|hit| hit.hits).sum();
            let (from, to) = span(&within)?;
            let max_hits = self.max_hits(from, to);
            (used > max_hits)
                .then(|| (last.answered_at, format!("{used} within a window's length, at most {max_hits}")))
        })
    }

    fn bucket(self, hits: &[AdmittedHits], window: u64) -> Option<Excess> {
        hits.iter().enumerate().find_map(|(at, first)| {
            let (mut used, mut begin, mut end) = (0, first.sent_at, first.answered_at);
            hits[at..].iter().filter(|hit| hit.from >= first.from).find_map(|last| {
                used += last.hits;
                (begin, end) = (begin.min(last.sent_at), end.max(last.answered_at));
                let versions: Vec<&Limit> = self.allowance.limits(begin, end).collect();
                let burst = versions.iter().map(|limit| capacity(limit)).max().unwrap_or(0);
                let rate = versions.iter().map(|limit| quota(limit)).max().unwrap_or(0);
                let refilled = (u128::from(last.to - first.from) * u128::from(rate)).div_ceil(u128::from(window));
                let refilled = u64::try_from(refilled).unwrap_or(u64::MAX);
                let forgiven = self.allowance.forgiven(begin, end);
                let max_hits = self.with_extras(burst.saturating_add(refilled), begin, end).saturating_add(forgiven);
                (used > max_hits).then(|| {
                    let us = last.to - first.from;
                    (
                        last.answered_at,
                        format!("{used} within {us} us, at most {max_hits} (burst {burst}, refill {refilled})"),
                    )
                })
            })
        })
    }
}

/// Returns the first sending and the last answer.
fn span(hits: &[&AdmittedHits]) -> Option<(Instant, Instant)> {
    Some((hits.iter().map(|hit| hit.sent_at).min()?, hits.iter().map(|hit| hit.answered_at).max()?))
}
