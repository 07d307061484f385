//! The clock of the node: monotonic time, plus the time for which the machine was suspended.
//!
//! The monotonic clock of a suspended machine stands still, so a lease would outlive its window. The wall clock goes
//! on, or is set when the machine wakes. If the wall clock gains on the monotonic clock, the node's clock goes forward
//! by the same time. A wall clock that is set forward for another reason looks the same: leases and waiting checks then
//! end early, and no debt is lost. A machine whose two clocks both stand still does not notice.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use crate::time::NodeTime;

/// The smallest gain that counts as a suspension, in microseconds.
const SUSPENSION_US: i64 = 50_000;

/// Compares the two clocks of a machine.
#[derive(Debug)]
pub struct NodeClock {
    /// The wall clock less the monotonic clock in microseconds, at the last comparison.
    ahead_us: AtomicI64,
    /// The time for which the machine was suspended, in microseconds.
    suspended_us: AtomicU64,
    /// One thread compares the clocks at a time.
    comparing: Mutex<()>,
}

impl NodeClock {
    /// `ahead_us` is the wall clock less the monotonic clock, in microseconds.
    pub const fn new(ahead_us: i64) -> Self {
        Self { ahead_us: AtomicI64::new(ahead_us), suspended_us: AtomicU64::new(0), comparing: Mutex::new(()) }
    }

    /// The node's time when the monotonic clock says `monotonic_us` and the wall clock is about `ahead_us` ahead of it.
    /// The latter may be out of date, or taken from two instants. If the clocks seem to have parted, `measure` is
    /// called: it returns the exact value, or `None` if it cannot measure now.
    #[inline]
    pub fn at(&self, monotonic_us: u64, ahead_us: i64, measure: impl FnOnce() -> Option<i64>) -> NodeTime {
        if (ahead_us - self.ahead_us.load(Ordering::Relaxed)).abs() >= SUSPENSION_US {
            self.compare(measure);
        }
        NodeTime(monotonic_us.saturating_add(self.suspended_us.load(Ordering::Relaxed)))
    }

    #[cold]
    fn compare(&self, measure: impl FnOnce() -> Option<i64>) {
        let _one_at_a_time = self.comparing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(ahead_us) = measure() else { return };
        let gain = ahead_us - self.ahead_us.load(Ordering::Relaxed);
        if gain.abs() < SUSPENSION_US {
            return;
        }
        self.ahead_us.store(ahead_us, Ordering::Relaxed);
        if let Ok(gain) = u64::try_from(gain) {
            self.suspended_us.fetch_add(gain, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the clock with a sample that a second comparison of the clocks confirms.
    fn read(clock: &NodeClock, monotonic_us: u64, ahead_us: i64) -> NodeTime {
        clock.at(monotonic_us, ahead_us, || Some(ahead_us))
    }

    #[test]
    fn the_duration_of_a_suspension_is_added_once() {
        let clock = NodeClock::new(5_000_000);
        assert_eq!(read(&clock, 1000, 5_000_000), NodeTime(1000));
        assert_eq!(
            read(&clock, 2000, 5_010_000),
            NodeTime(2000),
            "a small difference between two reads is no suspension"
        );
        for monotonic in [3000, 4000] {
            assert_eq!(read(&clock, monotonic, 35_000_000), NodeTime(monotonic + 30_000_000));
        }
    }

    #[test]
    fn the_clocks_are_compared_again_only_if_they_seem_to_have_parted_by_50_ms() {
        let measured = |ahead_us| {
            let mut measured = false;
            NodeClock::new(-5_000_000).at(1000, ahead_us, || {
                measured = true;
                None
            });
            measured
        };
        assert_eq!(
            [-5_050_000, -5_049_999, -5_000_000, -4_950_001, -4_950_000].map(measured),
            [true, false, false, false, true]
        );
    }

    #[test]
    fn a_gain_of_50_ms_or_more_is_a_suspension() {
        for (gain, added) in [(-50_000, 0), (0, 0), (49_999, 0), (50_000, 50_000), (50_001, 50_001)] {
            let clock = NodeClock::new(5_000_000);
            assert_eq!(clock.at(1000, 6_000_000, || Some(5_000_000 + gain)), NodeTime(1000 + added), "{gain}");
        }
    }

    #[test]
    fn a_stale_or_torn_sample_changes_nothing() {
        let clock = NodeClock::new(0);
        read(&clock, 1000, 30_000_000);
        // The first core read the clocks before the suspension. The others were stopped between reading one clock and
        // the other.
        for sample in [0, -90_000, 30_090_000] {
            assert_eq!(clock.at(2000, sample, || Some(30_000_000)), NodeTime(30_002_000));
        }
        assert_eq!(clock.at(2000, 0, || None), NodeTime(30_002_000), "the clocks could not be compared");
    }

    #[test]
    fn a_wall_clock_that_is_set_back_removes_no_time_and_hides_no_suspension() {
        let clock = NodeClock::new(0);
        assert_eq!(read(&clock, 1000, -60_000_000), NodeTime(1000));
        assert_eq!(read(&clock, 2000, -59_000_000), NodeTime(1_002_000));
    }
}
