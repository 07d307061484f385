//! The revision of a rule book: one sequence, whatever the source of the rules.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The number of a rule book: max(last revision + 1, milliseconds since the epoch at its commit).
///
/// Every source of rules follows this one rule. A token bucket keeps the highest revision that it has seen. A source
/// that counted its commits from 1 would therefore stay behind a bucket that a rule file has set, and the bucket would
/// never follow its rules.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub u64);

impl Revision {
    /// No rules yet. Every committed revision is higher.
    pub const NONE: Self = Self(0);
    /// The highest revision: records in Redis keep 48 bits.
    pub const MAX: Self = Self((1 << 48) - 1);

    /// The revision that follows `self` for rules that were committed `committed_at_ms` milliseconds after the epoch.
    #[must_use]
    pub fn next(self, committed_at_ms: u64) -> Self {
        Self(committed_at_ms.max(self.0.saturating_add(1))).min(Self::MAX)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_its_commit_time_or_one_more_than_the_last() {
        let first = Revision::NONE.next(1_764_000_000_000);
        assert_eq!(first, Revision(1_764_000_000_000));
        assert_eq!(first.next(1_764_000_000_000), Revision(1_764_000_000_001), "two commits in one millisecond");
        assert_eq!(first.next(5), Revision(1_764_000_000_001), "the clock was set back");
        assert_eq!(Revision::MAX.next(u64::MAX), Revision::MAX);
    }

    #[test]
    fn a_revision_is_shown_as_its_number() {
        assert_eq!(Revision(1_764_000_000_000).to_string(), "1764000000000");
    }
}
