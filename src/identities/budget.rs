//! How many look-ups a node may make.

use limiter::NodeTime;

/// A token bucket of one second's look-ups.
#[derive(Debug)]
pub(super) struct Budget {
    per_second: u32,
    /// Microseconds of the instant at which the whole budget is free again.
    free_at: u64,
}

impl Budget {
    pub const fn new(per_second: u32) -> Self {
        Self { per_second, free_at: 0 }
    }

    /// Takes one look-up, if there is one.
    pub fn take(&mut self, now: NodeTime) -> bool {
        let step = 1_000_000 / u64::from(self.per_second.max(1));
        let next = self.free_at.max(now.0) + step;
        let fits = next <= now.0 + 1_000_000;
        if fits {
            self.free_at = next;
        }
        fits
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_has_its_look_ups_and_no_more() {
        let mut budget = Budget::new(10);
        let start = NodeTime(5_000_000);
        assert_eq!((0..100).filter(|_| budget.take(start)).count(), 10);
        assert_eq!((0..100).filter(|_| budget.take(start.plus(99_999))).count(), 0);
        assert_eq!((0..100).filter(|_| budget.take(start.plus(250_000))).count(), 2);
        assert_eq!((0..100).filter(|_| budget.take(start.plus(10_000_000))).count(), 10, "no more is saved up");
    }
}
