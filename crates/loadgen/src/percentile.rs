//! Percentiles, and how many measurements each of them needs.

/// A percentile is reported if at least this many measurements are beyond it. With fewer, a handful of calls decides
/// it, and the next run says something else.
const MIN_BEYOND: u64 = 10;

/// A percentile of which one in `one_in` measurements is beyond.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Percentile {
    pub name: &'static str,
    one_in: u64,
}

impl Percentile {
    pub const P50: Self = Self { name: "p50", one_in: 2 };
    pub const P90: Self = Self { name: "p90", one_in: 10 };
    pub const P99: Self = Self { name: "p99", one_in: 100 };
    pub const P999: Self = Self { name: "p99.9", one_in: 1000 };
    pub const P9999: Self = Self { name: "p99.99", one_in: 10_000 };
    pub const ALL: [Self; 5] = [Self::P50, Self::P90, Self::P99, Self::P999, Self::P9999];

    /// Returns the number of measurements that it needs.
    pub const fn needs(self) -> u64 {
        self.one_in * MIN_BEYOND
    }

    /// Returns it as a part of 1.
    #[expect(clippy::cast_precision_loss, reason = "at most 10,000")]
    pub fn quantile(self) -> f64 {
        1.0 - 1.0 / self.one_in as f64
    }
}

/// Returns the highest quantile that this number of measurements supports; `None` if it supports none.
#[expect(clippy::cast_precision_loss, reason = "a count of measurements")]
pub fn highest_quantile(count: u64) -> Option<f64> {
    (count > MIN_BEYOND).then(|| 1.0 - MIN_BEYOND as f64 / count as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ten_measurements_are_beyond_each_percentile_that_is_supported() {
        let needs = Percentile::ALL.map(Percentile::needs);
        assert_eq!(needs, [20, 100, 1000, 10_000, 100_000]);
        for percentile in Percentile::ALL {
            let highest = |count| highest_quantile(count).unwrap();
            assert!(highest(percentile.needs()) > percentile.quantile() - 1e-9, "{percentile:?}");
            assert!(highest(percentile.needs() - 1) < percentile.quantile(), "{percentile:?}");
        }
        assert_eq!(highest_quantile(10), None);
    }
}
