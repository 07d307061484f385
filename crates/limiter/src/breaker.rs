//! A circuit breaker for one server of a counter store.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// After this many calls in a row without an answer, the server gets no calls, only probes.
const OPENS_AFTER: u32 = 3;
/// How often a server that gets no calls is probed.
pub const PROBE_INTERVAL: Duration = Duration::from_millis(100);

/// Opens after consecutive calls without an answer and closes at the first answer, of a call or of a probe.
#[derive(Debug, Default)]
pub struct Breaker {
    consecutive_timeouts: AtomicU32,
}

impl Breaker {
    /// True if the server gets no calls.
    pub fn is_open(&self) -> bool {
        self.consecutive_timeouts.load(Ordering::Relaxed) >= OPENS_AFTER
    }

    /// Records that the server answered, whatever it said.
    pub fn record_answer(&self) {
        self.consecutive_timeouts.store(0, Ordering::Relaxed);
    }

    /// Records a call that got no answer in time.
    pub fn record_timeout(&self) {
        self.consecutive_timeouts.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_breaker_opens_after_consecutive_timeouts_and_closes_at_an_answer() {
        let breaker = Breaker::default();
        for _ in 1..OPENS_AFTER {
            breaker.record_timeout();
        }
        breaker.record_answer();
        for _ in 1..OPENS_AFTER {
            breaker.record_timeout();
        }
        assert!(!breaker.is_open(), "timeouts before the answer do not count");
        breaker.record_timeout();
        assert!(breaker.is_open());
        breaker.record_answer();
        assert!(!breaker.is_open());
    }
}
