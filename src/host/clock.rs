//! The clocks and the randomness of this machine; the only place that reads them.

use std::io;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::ports::Clock;
use limiter::{NodeClock, NodeTime, WallTime};

/// Reads that take longer than this, in microseconds, are not of one instant.
const AT_ONCE_US: i64 = 1000;
/// So often the clocks are read until they are.
const TRIES: u32 = 5;

/// Real time.
pub struct SystemClock {
    start: Instant,
    clock: NodeClock,
}

impl SystemClock {
    #[expect(clippy::new_without_default, reason = "it reads a clock")]
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    pub fn new() -> Self {
        Self { start: Instant::now(), clock: NodeClock::new(wall_ahead_us()) }
    }
}

impl Clock for SystemClock {
    fn now(&self) -> NodeTime {
        let monotonic_us = u64::try_from(self.start.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.clock.at(monotonic_us, wall_ahead_us(), measured_ahead_us)
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn wall(&self) -> WallTime {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        WallTime(u64::try_from(since.as_micros()).unwrap_or(u64::MAX))
    }
}

/// The wall clock less the monotonic one, in microseconds. The coarse clocks tick together, and cost a few nanoseconds; a
/// thread that is stopped between the two reads gets a wrong figure.
fn wall_ahead_us() -> i64 {
    micros(ClockId::RealtimeCoarse) - micros(ClockId::MonotonicCoarse)
}

/// The same exactly, where the thread is not stopped meanwhile.
fn measured_ahead_us() -> Option<i64> {
    (0..TRIES).find_map(|_| {
        let (before, wall, after) = (micros(ClockId::Monotonic), micros(ClockId::Realtime), micros(ClockId::Monotonic));
        (after - before <= AT_ONCE_US).then_some(wall - before)
    })
}

fn micros(id: ClockId) -> i64 {
    let time = clock_gettime(id);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

/// A random number of the operating system.
///
/// # Errors
/// When the system has none to give.
#[expect(clippy::disallowed_methods, reason = "this is where seeds come from")]
pub fn random() -> io::Result<u64> {
    getrandom::u64().map_err(io::Error::other)
}
