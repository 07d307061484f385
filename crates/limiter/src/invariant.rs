//! Invariants by id. A violation panics in debug builds, as tests are, and is counted in release builds.

use std::sync::atomic::{AtomicU64, Ordering};

/// The invariants. Tests, simulations and metrics share their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Invariant {
    /// No counter of a region is charged beyond its limit.
    I1RegionLimit,
    /// A check is charged everywhere or nowhere.
    I4AllOrNothing,
    /// No token is both returned and spent.
    I5NoTokenTwice,
    /// A node's rule revision never goes back.
    I6RevisionGrows,
    /// Resident keys stay below their bound.
    I10BoundedMemory,
}

impl Invariant {
    pub const ALL: [Self; 5] = [
        Self::I1RegionLimit,
        Self::I4AllOrNothing,
        Self::I5NoTokenTwice,
        Self::I6RevisionGrows,
        Self::I10BoundedMemory,
    ];

    pub const fn id(self) -> &'static str {
        match self {
            Self::I1RegionLimit => "I1",
            Self::I4AllOrNothing => "I4",
            Self::I5NoTokenTwice => "I5",
            Self::I6RevisionGrows => "I6",
            Self::I10BoundedMemory => "I10",
        }
    }
}

static BROKEN: [AtomicU64; Invariant::ALL.len()] = [const { AtomicU64::new(0) }; Invariant::ALL.len()];

/// Records that `invariant` was found to hold or not.
pub fn check(invariant: Invariant, holds: bool) {
    if !holds {
        debug_assert!(holds, "invariant {} is broken", invariant.id());
        BROKEN[invariant as usize].fetch_add(1, Ordering::Relaxed);
    }
}

/// The number of times that `invariant` was found broken since the process began.
pub fn broken(invariant: Invariant) -> u64 {
    BROKEN[invariant as usize].load(Ordering::Relaxed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_invariant_that_holds_is_not_counted() {
        for invariant in Invariant::ALL {
            check(invariant, true);
            assert_eq!(broken(invariant), 0, "{invariant:?}");
        }
    }

    #[test]
    #[should_panic(expected = "invariant I5 is broken")]
    fn a_violation_panics_in_tests() {
        check(Invariant::I5NoTokenTwice, false);
    }

    #[test]
    fn metrics_name_each_invariant_by_its_id() {
        assert_eq!(Invariant::ALL.map(Invariant::id), ["I1", "I4", "I5", "I6", "I10"]);
    }
}
