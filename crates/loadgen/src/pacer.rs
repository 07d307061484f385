//! Decides when each call is sent.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::Semaphore;

use crate::plan::{LoadPlan, RunLength};

/// The shortest interval at which an open loop releases slots that are due.
const MIN_TICK: Duration = Duration::from_micros(50);
/// The longest interval at which an open loop wakes. It bounds how late the pacer notices a stop request.
const MAX_TICK: Duration = Duration::from_millis(50);
/// How long the slots that are due at the end of the run may still wait for a free call.
const END_GRACE: Duration = Duration::from_millis(10);

/// The permission to send one call.
#[derive(Clone, Copy, Debug)]
pub struct Slot {
    /// The position of the call among the calls of all threads, from 0.
    pub number: u64,
    /// When the call is due; in a closed loop, the instant at which the slot was taken.
    pub due_at: Instant,
}

/// Hands out the slots of one thread.
pub struct Pacer {
    begin: Instant,
    /// The nanoseconds between two calls, over all threads; `None` for a closed loop.
    interval_ns: Option<f64>,
    /// The number of slots of this thread.
    max_slots: u64,
    end: Option<Instant>,
    taken: Cell<u64>,
    /// One permit for each slot that is due in an open loop. It is closed when no more slots follow.
    released: Semaphore,
    thread: u64,
    threads: u64,
    /// True once the run is to end early.
    stop: Arc<AtomicBool>,
}

impl Pacer {
    pub fn new(plan: &LoadPlan, thread: u32, threads: u32, begin: Instant, stop: Arc<AtomicBool>) -> Self {
        let (thread, threads) = (u64::from(thread), u64::from(threads));
        let interval_ns = plan.rate.map(|rate| 1e9 / rate);
        let (max_slots, end) = match plan.length {
            RunLength::Calls(calls) => (calls / threads + u64::from(thread < calls % threads), None),
            RunLength::Time(time) => (u64::MAX, Some(begin + plan.warm_up + time)),
        };
        let released = Semaphore::new(0);
        Self { begin, interval_ns, max_slots, end, taken: Cell::new(0), released, thread, threads, stop }
    }

    /// Returns the number of slots that were taken.
    pub fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// Returns true if all slots were taken, the time is over, or the run is to end early.
    #[expect(clippy::disallowed_methods, reason = "a load tool measures with the clock of this machine")]
    pub fn is_over(&self) -> bool {
        self.is_stopped() || self.taken.get() >= self.max_slots || self.end.is_some_and(|end| Instant::now() >= end)
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// Waits until the next slot is due and takes it. Returns `None` if no slots are left.
    pub async fn next(&self) -> Option<Slot> {
        if self.interval_ns.is_some() {
            self.released.acquire().await.ok()?.forget();
        }
        self.take()
    }

    /// Takes the next slot if it is due.
    pub fn try_next(&self) -> Option<Slot> {
        if self.interval_ns.is_some() {
            self.released.try_acquire().ok()?.forget();
        }
        self.take()
    }

    #[expect(clippy::disallowed_methods, reason = "a load tool measures with the clock of this machine")]
    fn take(&self) -> Option<Slot> {
        let taken = self.taken.get();
        if taken >= self.max_slots || self.is_stopped() {
            return None;
        }
        let due_at = match self.interval_ns {
            Some(_) => self.due_at(taken),
            None => {
                let now = Instant::now();
                if self.end.is_some_and(|end| now >= end) {
                    return None;
                }
                now
            }
        };
        self.taken.set(taken + 1);
        if taken + 1 == self.max_slots {
            self.released.close();
        }
        Some(Slot { number: taken * self.threads + self.thread, due_at })
    }

    /// Returns when this thread's slot number `index` is due in an open loop.
    fn due_at(&self, index: u64) -> Instant {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a run is far shorter than 2^53 ns"
        )]
        let after = ((index * self.threads + self.thread) as f64 * self.interval_ns.unwrap_or(0.0)) as u64;
        self.begin + Duration::from_nanos(after)
    }

    /// Ends an open loop: callers that wait for a slot get none. In a closed loop, no caller waits.
    pub fn close(&self) {
        self.released.close();
    }

    /// Returns when the next `count` slots, which no call took, were due.
    pub fn untaken_due_times(&self, count: u64) -> impl Iterator<Item = Instant> {
        (self.taken.get()..self.taken.get().saturating_add(count)).map(|index| self.due_at(index))
    }

    /// Releases the slots of an open loop as they fall due, until the end of the run. Returns the number of due slots
    /// that were never taken because no call was free.
    #[expect(clippy::disallowed_methods, reason = "a load tool measures with the clock of this machine")]
    pub async fn release_due_slots(&self) -> std::io::Result<u64> {
        let Some(interval_ns) = self.interval_ns else { return Ok(0) };
        let mut timer = KernelTimer::new()?;
        let mut released = 0u64;
        loop {
            let now = Instant::now();
            let at_end = self.is_stopped() || self.end.is_some_and(|end| now >= end);
            let until = self.end.map_or(now, |end| end.min(now));
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a run is far shorter than 2^53 ns"
            )]
            let due_of_all_threads = {
                let intervals = (until - self.begin).as_nanos() as f64 / interval_ns;
                // A slot that is due exactly at the end is not part of the run.
                if at_end { intervals.ceil() as u64 } else { intervals as u64 + 1 }
            };
            let due = due_of_all_threads.saturating_sub(self.thread).div_ceil(self.threads).min(self.max_slots);
            self.released.add_permits(usize::try_from(due.saturating_sub(released)).unwrap_or(0));
            released = due.max(released);
            if at_end {
                // The slots that were released just now may still be taken within the grace time. The rest was due and
                // not sent.
                let deadline = now + END_GRACE;
                while self.taken.get() < released && !self.is_stopped() && Instant::now() < deadline {
                    timer.wait(MIN_TICK).await?;
                }
                self.released.forget_permits(usize::MAX);
                return Ok(if self.is_stopped() { 0 } else { released.saturating_sub(self.taken.get()) });
            }
            if released >= self.max_slots {
                return Ok(0);
            }
            let until_next = self.due_at(released).saturating_duration_since(now);
            timer.wait(until_next.max(MIN_TICK).min(MAX_TICK)).await?;
        }
    }
}

/// A timer of the kernel. The runtime's own timers have a resolution of one millisecond.
struct KernelTimer(AsyncFd<OwnedFd>);

impl KernelTimer {
    fn new() -> std::io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(deprecated, reason = "an owned descriptor stays open while it is registered")]
        Ok(Self(AsyncFd::new(timer)?))
    }

    async fn wait(&mut self, time: Duration) -> std::io::Result<()> {
        let it_value = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        // Setting the timer again also clears an expiration that nobody has read.
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}
