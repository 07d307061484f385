//! Invariants by id. A violation is counted. In debug builds, as tests are, it also panics.

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
        BROKEN[invariant as usize].fetch_add(1, Ordering::Relaxed);
        debug_assert!(holds, "invariant {} is broken", invariant.id());
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
    fn only_a_violation_is_counted_and_it_panics_in_tests() {
        for invariant in Invariant::ALL {
            check(invariant, true);
        }
        let panic = std::panic::catch_unwind(|| check(Invariant::I5NoTokenTwice, false)).unwrap_err();
        assert_eq!(panic.downcast_ref(), Some(&"invariant I5 is broken".to_owned()));
        assert_eq!(Invariant::ALL.map(broken), [0, 0, 1, 0, 0]);
    }

    #[test]
    fn metrics_name_each_invariant_by_its_id() {
        assert_eq!(Invariant::ALL.map(Invariant::id), ["I1", "I4", "I5", "I6", "I10"]);
    }
}
