//! Bounds how often a log line is written that others can cause.

use std::sync::atomic::{AtomicU64, Ordering};

use limiter::NodeTime;

/// The shortest time between two lines, in microseconds.
const INTERVAL_US: u64 = 10_000_000;

/// Admits one line in ten seconds and counts those that it holds back.
#[derive(Debug, Default)]
pub struct LogGate {
    /// The instant from which the next line is admitted.
    next: AtomicU64,
    held_back: AtomicU64,
}

impl LogGate {
    /// Returns the number of lines that were held back since the last one if a line may be written at `now`.
    pub fn admit(&self, now: NodeTime) -> Option<u64> {
        let admits = |next: u64| (now.0 >= next).then(|| now.plus(INTERVAL_US).0);
        if self.next.fetch_update(Ordering::Relaxed, Ordering::Relaxed, admits).is_err() {
            self.held_back.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.held_back.swap(0, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_is_admitted_in_an_interval_and_says_how_many_were_not() {
        let gate = LogGate::default();
        let at = |micros| gate.admit(NodeTime(micros));
        assert_eq!([at(5), at(5), at(INTERVAL_US)], [Some(0), None, None]);
        assert_eq!([at(INTERVAL_US + 5), at(INTERVAL_US + 6)], [Some(2), None]);
        assert_eq!(at(3 * INTERVAL_US), Some(1));
    }
}
