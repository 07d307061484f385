//! The clocks of a decision. None is read here: every instant is an argument.

use serde::{Deserialize, Serialize};

/// An instant of the **store's** clock, in microseconds since the Unix epoch.
///
/// Windows and buckets are measured by this clock, so the skew of node clocks changes no decision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StoreTime(pub u64);

/// An instant of this **node's** monotonic clock, in microseconds since an arbitrary start.
///
/// Leases, remembered denials and deadlines end by this clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeTime(pub u64);

/// An instant of this node's wall clock, in microseconds since the Unix epoch.
///
/// It is only a first estimate of the store's clock, and may be far off.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WallTime(pub u64);

impl StoreTime {
    /// The instant in whole milliseconds, rounded down.
    pub const fn millis(self) -> u64 {
        self.0 / 1000
    }

    /// The instant that is `ms` milliseconds after the epoch; saturates.
    pub const fn from_millis(ms: u64) -> Self {
        Self(ms.saturating_mul(1000))
    }

    /// The instant `ms` milliseconds later; saturates.
    pub const fn plus_millis(self, ms: u64) -> Self {
        Self(self.0.saturating_add(ms.saturating_mul(1000)))
    }

    /// Microseconds from `earlier` to this instant, 0 when `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl NodeTime {
    /// The instant `micros` later; saturates.
    pub const fn plus(self, micros: u64) -> Self {
        Self(self.0.saturating_add(micros))
    }

    /// Microseconds from `earlier` to this instant, 0 when `earlier` is later.
    pub const fn since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

/// Microseconds in whole milliseconds, rounded up: a wait that is shown is never too short.
pub const fn millis_up(micros: u64) -> u64 {
    micros.div_ceil(1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_shown_in_whole_milliseconds_rounded_up() {
        assert_eq!([0, 1, 999, 1000, 1001, 5_000_000].map(millis_up), [0, 1, 1, 1, 2, 5000]);
    }
}
