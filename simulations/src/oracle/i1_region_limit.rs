//! I1: the algorithm's promise for every counter, in the contract's words; what the store decided alone, and all together
//! with what cores admitted by themselves.

use super::Violation;
use super::allowance::{Allowance, hits};
use super::hits::{Hit, Usage};
use crate::faults::Instant;
use crate::ledger::Ledger;
use crate::plan::{Plan, describe};
use crate::run::most;
use limiter::rules::{Algorithm, Limit, Period};

pub fn judge(plan: &Plan, ledger: &Ledger, usages: &[Usage], found: &mut Vec<Violation>) {
    for usage in usages {
        let allowance = Allowance::new(plan, ledger, usage.counter);
        let Some(limit) = plan.edits.first().and_then(|edit| edit.limits.get(usage.counter.limit)) else { continue };
        let decided: Vec<Hit> = usage.hits.iter().filter(|hit| !hit.degraded).copied().collect();
        let by_store = Bound { limit, allowance: &allowance, shares: 0 };
        let together = allowance.shares().map(|shares| Bound { shares, ..by_store });
        let broken = by_store.broken(&decided).or_else(|| together.and_then(|bound| bound.broken(&usage.hits)));
        found.extend(broken.map(|(at, text)| {
            let whose = usage.counter.user.map_or_else(|| "all".to_owned(), |user| format!("user {user}"));
            Violation { promise: "I1", at, text: format!("{} ({whose}): {text}", describe(limit)) }
        }));
    }
}

#[derive(Clone, Copy)]
struct Bound<'a> {
    limit: &'a Limit,
    allowance: &'a Allowance<'a>,
    /// Further limits that cores may admit by themselves, in parts of the divisor.
    shares: u64,
}

/// When a promise was broken, and how.
type Broken = (Instant, String);

impl Bound<'_> {
    /// `hits` are in the order of their ends.
    fn broken(self, hits: &[Hit]) -> Option<Broken> {
        let Period::Window { ms } = self.limit.period else { return None };
        let window = ms * 1000;
        match self.limit.algorithm {
            Algorithm::FixedWindow => self.fixed(hits, window),
            Algorithm::SlidingWindow => self.sliding(hits, window),
            Algorithm::RollingWindow => self.rolling(hits, window),
            Algorithm::TokenBucket => self.bucket(hits, window),
        }
    }

    /// The most that may be admitted by hits that were asked from one instant on, and answered until another.
    fn most(self, from: Instant, to: Instant) -> u64 {
        let limit = self.allowance.in_force(from, to).map(hits).max().unwrap_or(0);
        self.with_extras(limit, from, to)
    }

    fn with_extras(self, limit: u64, from: Instant, to: Instant) -> u64 {
        limit + limit * self.shares / self.allowance.divisor() + self.allowance.forgotten(from, to, limit)
    }

    fn fixed(self, hits: &[Hit], window: u64) -> Option<Broken> {
        let inside = |hit: &&Hit| hit.from / window == hit.to / window;
        let hits: Vec<&Hit> = hits.iter().filter(inside).collect();
        hits.chunk_by(|a, b| a.to / window == b.to / window).find_map(|cell| {
            let used: u64 = cell.iter().map(|hit| hit.hits).sum();
            let (from, to) = span(cell)?;
            let most = self.most(from, to);
            (used > most).then(|| (to, format!("{used} in one window, at most {most}")))
        })
    }

    fn sliding(self, hits: &[Hit], window: u64) -> Option<Broken> {
        let inside: Vec<&Hit> = hits.iter().filter(|hit| hit.from / window == hit.to / window).collect();
        inside.iter().find_map(|last| {
            let cell = last.to / window;
            // What was surely charged before, and the charge itself.
            let current: Vec<&Hit> = inside
                .iter()
                .filter(|hit| hit.to / window == cell && (hit.to <= last.from || std::ptr::eq(**hit, *last)))
                .copied()
                .collect();
            let before: Vec<&Hit> = inside.iter().filter(|hit| hit.to / window + 1 == cell).copied().collect();
            let sum = |hits: &[&Hit]| hits.iter().map(|hit| u128::from(hit.hits)).sum::<u128>();
            let overlap = window - last.to % window;
            let used = sum(&current) * u128::from(window) + sum(&before) * u128::from(overlap);
            let (from, to) = span(&[before.as_slice(), current.as_slice()].concat())?;
            let most = self.most(from, to);
            (used > u128::from(most) * u128::from(window)).then(|| {
                let (current, before) = (sum(&current), sum(&before));
                let part = overlap * 100 / window;
                (
                    last.answered,
                    format!("{current} in this window and {part} % of {before} in the one before, at most {most}"),
                )
            })
        })
    }

    fn rolling(self, hits: &[Hit], window: u64) -> Option<Broken> {
        hits.iter().enumerate().find_map(|(at, last)| {
            let within = hits[..=at].iter().filter(|hit| hit.from + window > last.to);
            let within: Vec<&Hit> = within.collect();
            let used: u64 = within.iter().map(|hit| hit.hits).sum();
            let (from, to) = span(&within)?;
            let most = self.most(from, to);
            (used > most).then(|| (last.answered, format!("{used} within a window's length, at most {most}")))
        })
    }

    fn bucket(self, hits: &[Hit], window: u64) -> Option<Broken> {
        hits.iter().enumerate().find_map(|(at, first)| {
            let (mut used, mut begin, mut end) = (0, first.asked, first.answered);
            hits[at..].iter().filter(|hit| hit.from >= first.from).find_map(|last| {
                used += last.hits;
                (begin, end) = (begin.min(last.asked), end.max(last.answered));
                let rules: Vec<&Limit> = self.allowance.in_force(begin, end).collect();
                let burst = rules.iter().map(|limit| most(limit)).max().unwrap_or(0);
                let rate = rules.iter().map(|limit| super::allowance::hits(limit)).max().unwrap_or(0);
                let refilled = (u128::from(last.to - first.from) * u128::from(rate)).div_ceil(u128::from(window));
                let refilled = u64::try_from(refilled).unwrap_or(u64::MAX);
                let forgiven = self.allowance.forgiven(begin, end);
                let most = self.with_extras(burst + refilled, begin, end) + forgiven;
                (used > most).then(|| {
                    let us = last.to - first.from;
                    (last.answered, format!("{used} within {us} us, at most {most} (burst {burst}, refill {refilled})"))
                })
            })
        })
    }
}

/// From the first asking to the last answer.
fn span(hits: &[&Hit]) -> Option<(Instant, Instant)> {
    Some((hits.iter().map(|hit| hit.asked).min()?, hits.iter().map(|hit| hit.answered).max()?))
}
