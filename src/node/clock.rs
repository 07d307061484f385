//! The clocks and the randomness of this machine; the only place that reads them.

use std::io;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::limiter::time::{NodeTime, StoreTime};
use crate::ports::Clock;

/// Real time.
pub struct SystemClock {
    start: Instant,
}

impl SystemClock {
    #[expect(clippy::new_without_default, reason = "it reads a clock")]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn new() -> Self {
        Self { start: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> NodeTime {
        NodeTime(u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn wall(&self) -> StoreTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        StoreTime(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

/// A random number of the operating system.
///
/// # Errors
/// When the system has none to give.
#[expect(clippy::disallowed_methods, reason = "this is where seeds come from")]
pub fn random() -> io::Result<u64> {
    getrandom::u64().map_err(io::Error::other)
}
