//! The question and its answer.

use std::cmp::Ordering;
use std::sync::Arc;

use crate::revision::Revision;
use crate::rules::{Effective, Period};

/// One descriptor of a check.
#[derive(Clone, Debug)]
pub struct Descriptor<'a> {
    /// Keys and values; of entries with one key the first counts.
    pub entries: &'a [(&'a str, &'a str)],
    /// Whether the order of the entries means something; of a map it does not.
    pub ordered: bool,
    /// 0 peeks: would one hit pass? Nothing is charged.
    pub hits: u32,
    /// A limit that the caller brings: it applies instead of the book's, and counts apart.
    pub limit: Option<(u64, Period)>,
}

/// One check over one or more descriptors.
#[derive(Clone, Copy, Debug)]
pub struct Check<'a> {
    pub domain: &'a str,
    pub descriptors: &'a [Descriptor<'a>],
}

/// The answer to a check.
#[derive(Clone, Debug)]
pub struct Decision {
    pub allowed: bool,
    /// Some limit was decided without the store.
    pub degraded: bool,
    /// The revision of the rules that decided.
    pub revision: Revision,
    /// The domain, when a rule has it.
    pub domain: Option<Arc<str>>,
    /// Microseconds after which to ask again; `None` when allowed or when waiting cannot help.
    pub retry_after: Option<u64>,
    /// Every limit that applied, by descriptor, then in book order.
    pub limits: Vec<LimitStatus>,
}

/// What one limit said.
#[derive(Clone, Debug)]
pub struct LimitStatus {
    pub effective: Arc<Effective>,
    /// Place of the descriptor in the check.
    pub descriptor: usize,
    /// Hits left; `None` for unlimited.
    pub remaining: Option<u64>,
    /// Microseconds until the whole limit is free again if nothing more is asked.
    pub reset: u64,
    pub refused: bool,
    /// Microseconds until the refused hits would fit; `None` when not refused, or when they never will.
    pub retry_after: Option<u64>,
    pub shadow: bool,
}

impl LimitStatus {
    /// The configured limit; `None` for unlimited.
    pub fn limit(&self) -> Option<u64> {
        (!self.effective.is_unlimited()).then_some(self.effective.limit)
    }
}

impl Decision {
    /// The limit to show where there is room for one: the one that refused, else the one with the smallest part left.
    pub fn tightest(&self) -> Option<&LimitStatus> {
        tightest(self.limits.iter())
    }
}

/// The limit that refused (the longest wait first), else the one with the smallest part left.
pub fn tightest<'a>(limits: impl Iterator<Item = &'a LimitStatus> + Clone) -> Option<&'a LimitStatus> {
    let refused = limits.clone().filter(|l| l.refused && !l.shadow);
    // A wait without end is longer than any.
    let longest = refused.max_by_key(|l| l.retry_after.unwrap_or(u64::MAX));
    // Unlimited ones are never the tightest.
    longest.or_else(|| limits.filter(|l| l.limit().is_some() && !l.shadow).min_by(|a, b| by_part_left(a, b)))
}

/// Orders limits by the part that is left of them.
pub fn by_part_left(a: &LimitStatus, b: &LimitStatus) -> Ordering {
    // a/b < c/d without division.
    let part = |l: &LimitStatus| (u128::from(l.remaining.unwrap_or(0)), u128::from(l.effective.most().max(1)));
    let ((left, of), (other_left, other_of)) = (part(a), part(b));
    (left * other_of).cmp(&(other_left * of))
}
