//! The clock of connections: it is read for every frame and is good to a few milliseconds.

use std::pin::Pin;
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// A timer that sleeps as Tokio does and returns the time of the system's last tick (1 to 10 ms ago), which costs a
/// fifth of an exact reading. The HTTP/2 library reads it several times per request, only to know since when a
/// connection is idle.
#[derive(Clone, Debug)]
pub struct CoarseTimer {
    tokio: TokioTimer,
    begun: Instant,
    /// The system's clock at `begun`, or a little later.
    clock: Duration,
}

impl CoarseTimer {
    pub fn new() -> Self {
        let tokio = TokioTimer::new();
        // In this order, so that it is never ahead.
        let begun = tokio.now();
        Self { tokio, begun, clock: read(ClockId::Monotonic) }
    }
}

impl Default for CoarseTimer {
    fn default() -> Self {
        Self::new()
    }
}

fn read(clock: ClockId) -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(clock);
    Duration::new(u64::try_from(tv_sec).unwrap_or(0), u32::try_from(tv_nsec).unwrap_or(0))
}

impl Timer for CoarseTimer {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn Sleep>> {
        self.tokio.sleep(duration)
    }

    fn sleep_until(&self, deadline: Instant) -> Pin<Box<dyn Sleep>> {
        self.tokio.sleep_until(deadline)
    }

    fn now(&self) -> Instant {
        self.begun + read(ClockId::MonotonicCoarse).saturating_sub(self.clock)
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, new_deadline: Instant) {
        self.tokio.reset(sleep, new_deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_ahead_of_the_exact_time_nor_before_its_beginning() {
        let exact = TokioTimer::new();
        let begun = exact.now();
        let timer = CoarseTimer::new();
        for _ in 0..1000 {
            let (coarse, now) = (timer.now(), exact.now());
            assert!((begun..=now).contains(&coarse), "{begun:?} {coarse:?} {now:?}");
        }
    }
}
