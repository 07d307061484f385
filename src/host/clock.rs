//! The clocks and the randomness of this machine. Nothing else reads them.

use std::io;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

use crate::ports::Clock;
use limiter::{NodeClock, NodeTime, WallTime};

/// Two reads within this time, in microseconds, count as one instant.
const ONE_INSTANT_US: i64 = 1000;
/// The most attempts to read the clocks at one instant.
const TRIES: u32 = 5;

/// The clocks of this machine.
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

/// The wall clock less the monotonic clock, in microseconds. The coarse clocks tick together and cost a few
/// nanoseconds. If the thread is stopped between the two reads, the result is wrong.
fn wall_ahead_us() -> i64 {
    micros(ClockId::RealtimeCoarse) - micros(ClockId::MonotonicCoarse)
}

/// The exact value of [`wall_ahead_us`]; `None` if the thread was stopped during each attempt.
fn measured_ahead_us() -> Option<i64> {
    (0..TRIES).find_map(|_| {
        let (before, wall, after) = (micros(ClockId::Monotonic), micros(ClockId::Realtime), micros(ClockId::Monotonic));
        (after - before <= ONE_INSTANT_US).then_some(wall - before)
    })
}

fn micros(id: ClockId) -> i64 {
    let time = clock_gettime(id);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

/// Returns a random number of the operating system.
///
/// # Errors
/// When the system has no randomness.
#[expect(clippy::disallowed_methods, reason = "this is where seeds come from")]
pub fn random() -> io::Result<u64> {
    getrandom::u64().map_err(io::Error::other)
}
