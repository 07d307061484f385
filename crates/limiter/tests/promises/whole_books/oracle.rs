//! The meaning of a rule book, written from the contract in plain slow code: which limits apply to a check, which
//! counters count it, and what each counter has room for. It remembers every charge.

use std::collections::BTreeMap;

use limiter::rules::{Algorithm, Mode};

use super::rules::{Attributes, Book, Rule, Test, Tests};

/// A counter: the position of its rule, the conditions of the override that counts apart, and the values of `per`.
pub type Counter = (usize, Option<Tests>, Vec<&'static str>);

/// A limit that applies to a descriptor.
#[derive(Clone, Debug)]
pub struct Applied {
    pub descriptor: usize,
    pub rule: usize,
    pub counter: Counter,
    /// `None` is unlimited.
    pub hits: Option<u64>,
    /// The most hits that are granted at once.
    pub most: u64,
    pub mode: Mode,
}

/// The charges of every counter, each with its instant in milliseconds.
#[derive(Default)]
pub struct Oracle {
    charges: BTreeMap<Counter, Vec<(u64, u64)>>,
}

fn holds(tests: &Tests, attributes: &Attributes) -> bool {
    tests.iter().all(|(name, test)| {
        let value = attributes.get(name).copied();
        match *test {
            Test::Is(wanted) => value == Some(wanted),
            Test::IsNot(other) => value != Some(other),
            Test::Present(present) => value.is_some() == present,
        }
    })
}

/// The limit of a rule that applies to a descriptor, without regard to other rules.
fn apply(rule: &Rule, position: usize, descriptor: usize, attributes: &Attributes) -> Option<Applied> {
    let matches = holds(&rule.tests, attributes) && rule.per.iter().all(|name| attributes.contains_key(name));
    if !matches {
        return None;
    }
    let change = rule.overrides.iter().position(|change| holds(&change.tests, attributes));
    let (mut hits, mut mode, mut burst) = (rule.hits, rule.mode, rule.burst);
    if let Some(change) = change.map(|at| &rule.overrides[at]) {
        if let Some(changed) = change.hits {
            // The burst belongs to the limit that it was written beside.
            (hits, burst) = (changed, None);
        }
        mode = change.mode.unwrap_or(mode);
    }
    let apart = change.map(|at| &rule.overrides[at].tests);
    let apart = apart.filter(|tests| tests.keys().any(|name| !rule.per.contains(name))).cloned();
    let values = rule.per.iter().map(|name| attributes[name]).collect();
    let most = match (hits, rule.algorithm) {
        (Some(0), _) => 0,
        (Some(hits), Algorithm::TokenBucket) => burst.unwrap_or(hits),
        (Some(hits), _) => hits,
        (None, _) => u64::MAX,
    };
    (mode != Mode::Off).then_some(Applied {
        descriptor,
        rule: position,
        counter: (position, apart, values),
        hits,
        most,
        mode,
    })
}

/// Every limit that applies to a check, by descriptor and then in the order of the rules.
pub fn applied(book: &Book, descriptors: &[Attributes]) -> Vec<Applied> {
    let each = descriptors.iter().enumerate().flat_map(|(descriptor, attributes)| {
        let rules = book.rules.iter().enumerate();
        rules.filter_map(move |(position, rule)| apply(rule, position, descriptor, attributes))
    });
    let all: Vec<Applied> = each.collect();
    let enforced = all.iter().filter(|limit| limit.mode == Mode::Enforce);
    let replaced: Vec<usize> = enforced.flat_map(|limit| book.rules[limit.rule].replaces.iter().copied()).collect();
    all.into_iter().filter(|limit| !replaced.contains(&limit.rule)).collect()
}

impl Oracle {
    pub fn charge(&mut self, limit: &Applied, at_ms: u64, hits: u64) {
        if hits > 0 && limit.hits != Some(0) {
            self.charges.entry(limit.counter.clone()).or_default().push((at_ms, hits));
        }
    }

    /// Hits that count at an instant. For a bucket: those that it lacks, a part of one counting as one.
    pub fn used(&self, book: &Book, limit: &Applied, at_ms: u64) -> u64 {
        let rule = &book.rules[limit.rule];
        let none = Vec::new();
        let charges = self.charges.get(&limit.counter).unwrap_or(&none);
        let between = |from: u64, until: u64| -> u64 {
            charges.iter().filter(|(at, _)| (from..until).contains(at)).map(|(_, hits)| hits).sum()
        };
        let window_ms = rule.window_ms;
        let start = at_ms - at_ms % window_ms;
        match rule.algorithm {
            Algorithm::FixedWindow => between(start, start + window_ms),
            Algorithm::SlidingWindow => {
                let overlap = start + window_ms - at_ms;
                let older = between(start - window_ms, start) * overlap;
                between(start, start + window_ms) + older.div_ceil(window_ms)
            }
            Algorithm::RollingWindow => {
                // 4 cells, and the one that is being filled.
                let cell = window_ms / 4;
                let start = at_ms - at_ms % cell;
                between(start - 4 * cell, start + cell)
            }
            Algorithm::TokenBucket => {
                let Some(hits @ 1..) = limit.hits else { return 0 };
                let step = window_ms / hits;
                // The time until the bucket is full, at the instant of the last charge.
                let (mut lacks, mut last) = (0u64, 0);
                for (at, charged) in charges {
                    lacks = lacks.saturating_sub(at - last) + charged * step;
                    last = *at;
                }
                lacks.saturating_sub(at_ms - last).div_ceil(step)
            }
        }
    }

    /// True if `hits` fit, or one hit for a peek.
    pub fn fits(&self, book: &Book, limit: &Applied, at_ms: u64, hits: u64) -> bool {
        limit.hits.is_none() || self.used(book, limit, at_ms).saturating_add(hits.max(1)) <= limit.most
    }

    /// The hits that are left.
    pub fn left(&self, book: &Book, limit: &Applied, at_ms: u64) -> Option<u64> {
        limit.hits.map(|_| limit.most.saturating_sub(self.used(book, limit, at_ms)))
    }

    /// Milliseconds until `hits` fit if nothing more is charged; `None` if they never do.
    pub fn wait(&self, book: &Book, limit: &Applied, at_ms: u64, hits: u64) -> Option<u64> {
        (hits.max(1) <= limit.most).then(|| (0..).find(|ms| self.fits(book, limit, at_ms + ms, hits)).unwrap_or(0))
    }
}
