//! Oracles: each holds one promise against what clients were told, knowing besides only what went wrong and when.

mod allowance;
mod deadline;
mod debts;
mod hits;
mod i10_bounded_memory;
mod i1_region_limit;
mod i4_all_or_nothing;
mod i5_no_token_twice;
mod i6_revision;
mod liveness;
mod refusals;

use std::fmt;

pub use hits::{Hit, Usage, usages};

use super::faults::Instant;
use super::ledger::Ledger;
use super::plan::Plan;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// `I1` and so on, `deadline`, `debts`, `liveness` or `refusal`.
    pub promise: &'static str,
    pub at: Instant,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ms: {}", self.promise, self.at / 1000, self.text)
    }
}

/// The names of all promises that are looked at.
pub const PROMISES: [&str; 9] = ["I1", "I4", "I5", "I6", "I10", "deadline", "debts", "liveness", "refusal"];

/// Everything that was broken.
pub fn judge(plan: &Plan, ledger: &Ledger) -> Vec<Violation> {
    let usages = usages(plan, ledger);
    let mut found = Vec::new();
    i1_region_limit::judge(plan, ledger, &usages, &mut found);
    i4_all_or_nothing::judge(plan, ledger, &mut found);
    i5_no_token_twice::judge(plan, ledger, &mut found);
    i6_revision::judge(plan, ledger, &mut found);
    i10_bounded_memory::judge(plan, ledger, &mut found);
    deadline::judge(plan, ledger, &mut found);
    debts::judge(plan, ledger, &mut found);
    liveness::judge(ledger, &mut found);
    refusals::judge(plan, ledger, &mut found);
    found
}
