//! The time that connections go by: read for every frame, and good to a few milliseconds.

use std::pin::Pin;
use std::time::{Duration, Instant};

use hyper::rt::{Sleep, Timer};
use hyper_util::rt::TokioTimer;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Sleeps as Tokio does, and tells the time of the system's last tick (1 to 10 ms ago), which costs a fifth of an exact reading. The
/// HTTP/2 library asks for it several times a call, only to know since when a connection is idle.
#[derive(Clone, Debug)]
pub struct CoarseTimer {
    tokio: TokioTimer,
    begun: Instant,
    /// What the coarse clock said then.
    tick: Duration,
}

impl CoarseTimer {
    pub fn new() -> Self {
        let tokio = TokioTimer::new();
        Self { begun: tokio.now(), tick: tick(), tokio }
    }
}

impl Default for CoarseTimer {
    fn default() -> Self {
        Self::new()
    }
}

fn tick() -> Duration {
    let Timespec { tv_sec, tv_nsec } = clock_gettime(ClockId::MonotonicCoarse);
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
        self.begun + tick().saturating_sub(self.tick)
    }

    fn reset(&self, sleep: &mut Pin<Box<dyn Sleep>>, new_deadline: Instant) {
        self.tokio.reset(sleep, new_deadline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_never_ahead_of_the_time_and_not_far_behind() {
        let (timer, exact) = (CoarseTimer::new(), TokioTimer::new());
        for _ in 0..1000 {
            let (coarse, now) = (timer.now(), exact.now());
            // Two clocks that begin at instants which a tick may lie between.
            assert!(coarse <= now + Duration::from_millis(10), "{coarse:?} {now:?}");
            assert!(now.duration_since(coarse) < Duration::from_secs(1), "{coarse:?} {now:?}");
        }
    }
}
