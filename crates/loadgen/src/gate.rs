//! When each call is to be sent.

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

use super::{Length, Plan};

/// How often an open loop looks what is due, at most.
const TICK: Duration = Duration::from_micros(50);

/// And how often at least, for whoever wants it to end.
const LOOK: Duration = Duration::from_millis(50);
/// How long what is due at the end may wait for its turn.
const GRACE: Duration = Duration::from_millis(10);

/// One call's turn.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    pub number: u64,
    /// When it is to be sent; in a closed loop that is now.
    pub intended: Instant,
}

/// One thread's turns.
pub struct Gate {
    begin: Instant,
    /// Nanoseconds between two calls of all threads; `None` for a closed loop.
    pause_ns: Option<f64>,
    /// Turns of this thread.
    most: u64,
    end: Option<Instant>,
    taken: Cell<u64>,
    due: Semaphore,
    thread: u64,
    threads: u64,
    /// Somebody wants it to end now.
    stop: Arc<AtomicBool>,
}

impl Gate {
    pub fn new(plan: &Plan, thread: u32, threads: u32, begin: Instant, stop: Arc<AtomicBool>) -> Self {
        let (thread, threads) = (u64::from(thread), u64::from(threads));
        let pause_ns = plan.rate.map(|rate| 1e9 / rate);
        let (most, end) = match plan.length {
            Length::Calls(calls) => (calls / threads + u64::from(thread < calls % threads), None),
            Length::Time(time) => (u64::MAX, Some(begin + plan.warm_up + time)),
        };
        Self { begin, pause_ns, most, end, taken: Cell::new(0), due: Semaphore::new(0), thread, threads, stop }
    }

    /// Turns that were taken.
    pub fn taken(&self) -> u64 {
        self.taken.get()
    }

    /// Whether there are no more turns, or nobody wants them.
    #[expect(clippy::disallowed_methods, reason = "a load tool measures the clock of this machine")]
    pub fn is_over(&self) -> bool {
        self.is_stopped() || self.taken.get() >= self.most || self.end.is_some_and(|end| Instant::now() >= end)
    }

    pub fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    /// The next turn, as soon as it is due; `None` when there are no more.
    pub async fn next(&self) -> Option<Turn> {
        if self.pause_ns.is_some() {
            // It is closed when the end has come.
            self.due.acquire().await.ok()?.forget();
        }
        self.take()
    }

    /// The next turn, if it is due.
    pub fn next_now(&self) -> Option<Turn> {
        if self.pause_ns.is_some() {
            self.due.try_acquire().ok()?.forget();
        }
        self.take()
    }

    #[expect(clippy::disallowed_methods, reason = "a load tool measures the clock of this machine")]
    fn take(&self) -> Option<Turn> {
        let taken = self.taken.get();
        if taken >= self.most || self.is_stopped() {
            return None;
        }
        let intended = match self.pause_ns {
            Some(_) => self.intended(taken),
            None => {
                let now = Instant::now();
                if self.end.is_some_and(|end| now >= end) {
                    return None;
                }
                now
            }
        };
        self.taken.set(taken + 1);
        if taken + 1 == self.most {
            self.due.close();
        }
        Some(Turn { number: taken * self.threads + self.thread, intended })
    }

    fn intended(&self, number: u64) -> Instant {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a run is far shorter than 2^53 ns"
        )]
        let after = ((number * self.threads + self.thread) as f64 * self.pause_ns.unwrap_or(0.0)) as u64;
        self.begin + Duration::from_nanos(after)
    }

    /// No turn comes any more.
    pub fn close(&self) {
        self.due.close();
    }

    /// When the `count` turns that nobody took were due.
    pub fn left(&self, count: u64) -> impl Iterator<Item = Instant> {
        (self.taken.get()..self.taken.get().saturating_add(count)).map(|number| self.intended(number))
    }

    /// Lets turns be taken as they fall due, until all are. Returns how many never were taken, for want of a free call.
    #[expect(clippy::disallowed_methods, reason = "a load tool measures the clock of this machine")]
    pub async fn pace(&self) -> std::io::Result<u64> {
        let Some(pause_ns) = self.pause_ns else { return Ok(0) };
        let mut timer = Timer::new()?;
        let mut let_in = 0u64;
        loop {
            let now = Instant::now();
            let end = self.is_stopped() || self.end.is_some_and(|end| now >= end);
            let until = self.end.map_or(now, |end| end.min(now));
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a run is far shorter than 2^53 ns"
            )]
            let of_all = {
                let pauses = (until - self.begin).as_nanos() as f64 / pause_ns;
                // What would be due at the end itself is not of this time.
                if end { pauses.ceil() as u64 } else { pauses as u64 + 1 }
            };
            let due = of_all.saturating_sub(self.thread).div_ceil(self.threads).min(self.most);
            self.due.add_permits(usize::try_from(due.saturating_sub(let_in)).unwrap_or(0));
            let_in = due.max(let_in);
            if end {
                // Who was let in just now takes its turn; what nobody took by then was due and not sent.
                let late = now + GRACE;
                while self.taken.get() < let_in && !self.is_stopped() && Instant::now() < late {
                    timer.wait(TICK).await?;
                }
                self.due.forget_permits(usize::MAX);
                return Ok(if self.is_stopped() { 0 } else { let_in.saturating_sub(self.taken.get()) });
            }
            if let_in >= self.most {
                return Ok(0);
            }
            timer.wait(self.intended(let_in).saturating_duration_since(now).max(TICK).min(LOOK)).await?;
        }
    }
}

/// A timer of the kernel: the runtime's own are a millisecond apart.
struct Timer(AsyncFd<OwnedFd>);

impl Timer {
    fn new() -> std::io::Result<Self> {
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        #[expect(deprecated, reason = "an owned descriptor is open for as long as it is registered")]
        Ok(Self(AsyncFd::new(timer)?))
    }

    async fn wait(&mut self, time: Duration) -> std::io::Result<()> {
        let it_value = Timespec {
            tv_sec: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
            tv_nsec: i64::from(time.subsec_nanos()),
        };
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value };
        // Setting it anew also takes back what it had to say.
        timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::empty(), &once)?;
        self.0.readable().await?.clear_ready();
        Ok(())
    }
}
