//! The rate of a token bucket, and the unit of time that it is measured in.

use serde::{Deserialize, Serialize};

/// A span or an instant in 2^-20 microseconds, so that rounding costs a fast bucket less than a millionth.
///
/// A Redis script holds it as two integers, microseconds and the fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Ticks(pub u128);

pub const TICKS_PER_MICRO: u128 = 1 << 20;

impl Ticks {
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros as u128 * TICKS_PER_MICRO)
    }

    /// Whole microseconds, rounded up; saturates.
    pub fn micros_up(self) -> u64 {
        u64::try_from(self.0.div_ceil(TICKS_PER_MICRO)).unwrap_or(u64::MAX)
    }

    /// Whole microseconds, and the rest in 2^-20; saturates.
    pub fn parts(self) -> (u64, u64) {
        let (micros, rest) = (self.0 / TICKS_PER_MICRO, self.0 % TICKS_PER_MICRO);
        u64::try_from(micros).map_or((u64::MAX, 0), |micros| (micros, u64::try_from(rest).unwrap_or(0)))
    }

    /// The inverse of [`Self::parts`].
    pub const fn from_parts(micros: u64, rest: u64) -> Self {
        Self(micros as u128 * TICKS_PER_MICRO + rest as u128)
    }

    pub(super) const fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    pub(super) const fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }
}

/// Rate and size of a bucket.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rate {
    /// Time that one hit costs.
    pub step: Ticks,
    /// Hits that a full bucket holds.
    pub burst: u64,
}

impl Rate {
    /// `limit` hits per `window_ms`, at most `burst` at once. A limit or burst of 0 never grants.
    pub const fn new(limit: u64, window_ms: u64, burst: u64) -> Self {
        if limit == 0 || burst == 0 {
            return Self { step: Ticks(0), burst: 0 };
        }
        let window = Ticks::from_micros(window_ms.saturating_mul(1000)).0;
        Self { step: Ticks(window.div_ceil(limit as u128)), burst }
    }

    pub(super) const fn cost(&self, hits: u64) -> Ticks {
        Ticks(self.step.0.saturating_mul(hits as u128))
    }

    pub(super) const fn size(&self) -> Ticks {
        self.cost(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_whole_microseconds_and_a_rest() {
        let ticks = Ticks(3 * (1 << 20) + 5);
        assert_eq!(ticks.parts(), (3, 5));
        assert_eq!(Ticks::from_parts(3, 5), ticks);
        let most = Ticks::from_parts(u64::MAX, (1 << 20) - 1);
        assert_eq!(most.parts(), (u64::MAX, (1 << 20) - 1));
        assert_eq!(most.plus(Ticks(1)).parts(), (u64::MAX, 0), "it saturates");
    }
}
