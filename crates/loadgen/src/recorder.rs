//! Records what one thread measures.

use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use crate::answer::CheckOutcome;
use crate::pacer::Slot;
use crate::plan::{LoadPlan, RunLength};
use crate::report::{FailureCounts, LatencySummary, Report, SecondSummary};

/// The histogram's bounds: latencies from 1 us to 1,000 s, with three significant digits.
const LATENCY_BOUNDS_NS: (u64, u64) = (1000, 1_000_000_000_000);

/// The maximum number of keys for which the recorder counts admitted checks per key.
pub const MAX_COUNTED_KEYS: u64 = 20_000_000;

/// The measurements of one thread.
pub struct Recorder {
    measured_from: Instant,
    /// When the last call was answered or lost.
    last_event: Instant,
    latency: Histogram<u64>,
    calls: u64,
    checks: u64,
    /// Checks that were answered in the measured time, whenever they were due.
    answered: u64,
    admitted: u64,
    denied: u64,
    pub failures: FailureCounts,
    /// Checks that were sent and answered, including the warm-up.
    sent: u64,
    /// Calls that were answered or lost, including the warm-up.
    ended: u64,
    /// True if no limit applied to the first answer that was inspected; `None` before that answer.
    pub unlimited: Option<bool>,
    /// The current second, counted from the end of the warm-up.
    second: i64,
    latency_in_second: Histogram<u64>,
    checks_in_second: u64,
    failed_in_second: u64,
    each_second: Vec<SecondSummary>,
    /// Receives each completed second; `None` after the end of the run.
    seconds: Option<mpsc::Sender<SecondSummary>>,
    /// The number of admitted checks of each key, including the warm-up.
    admitted_by_key: Vec<u32>,
}

impl Recorder {
    pub fn new(plan: &LoadPlan, begin: Instant, seconds: mpsc::Sender<SecondSummary>) -> io::Result<Self> {
        let histogram =
            || Histogram::new_with_bounds(LATENCY_BOUNDS_NS.0, LATENCY_BOUNDS_NS.1, 3).map_err(io::Error::other);
        let keys = plan.keys.count();
        let counted_keys = if keys <= MAX_COUNTED_KEYS { usize::try_from(keys).unwrap_or(0) } else { 0 };
        Ok(Self {
            measured_from: begin + plan.warm_up,
            last_event: begin,
            latency: histogram()?,
            calls: 0,
            checks: 0,
            answered: 0,
            admitted: 0,
            denied: 0,
            failures: FailureCounts::default(),
            sent: 0,
            ended: 0,
            unlimited: None,
            second: second_of(begin, begin + plan.warm_up),
            latency_in_second: histogram()?,
            checks_in_second: 0,
            failed_in_second: 0,
            each_second: Vec::new(),
            seconds: Some(seconds),
            // Zeroed pages use no memory until they are written.
            admitted_by_key: vec![0; counted_keys],
        })
    }

    /// Records the answer to a call: the key and the outcome of each of its checks.
    #[expect(clippy::disallowed_methods, reason = "a load tool measures with the clock of this machine")]
    pub fn record_answer(&mut self, slot: Slot, checks: impl Iterator<Item = (u64, CheckOutcome)>) {
        let now = Instant::now();
        self.complete_seconds_before(now);
        let measured = slot.due_at >= self.measured_from;
        let (mut count, mut errors) = (0, 0);
        for (key, outcome) in checks {
            count += 1;
            match outcome {
                CheckOutcome::Admitted => {
                    self.admitted += u64::from(measured);
                    let admitted = usize::try_from(key).ok().and_then(|key| self.admitted_by_key.get_mut(key));
                    if let Some(admitted) = admitted {
                        *admitted = admitted.saturating_add(1);
                    }
                }
                CheckOutcome::Denied => self.denied += u64::from(measured),
                CheckOutcome::Error => errors += 1,
            }
        }
        self.sent += count;
        self.ended += 1;
        self.last_event = now;
        self.failures.errors += errors;
        self.failed_in_second += errors;
        self.checks_in_second += count - errors;
        if self.second >= 0 {
            self.answered += count - errors;
        }
        // Calls with errors only are not timed: immediate errors would make a server look fast.
        let latency = u64::try_from(now.saturating_duration_since(slot.due_at).as_nanos()).unwrap_or(u64::MAX);
        if count > errors && (measured || self.second < 0) {
            self.latency_in_second.saturating_record(latency);
        }
        if count > errors && measured {
            self.latency.saturating_record(latency);
            self.calls += 1;
            self.checks += count - errors;
        }
    }

    /// Records that a call that was due at `due_at` has no answer by now. Its waiting time so far counts as a latency.
    /// Without it, a server that hangs would look as fast as before.
    #[expect(clippy::disallowed_methods, reason = "a load tool measures with the clock of this machine")]
    pub fn record_unanswered(&mut self, due_at: Instant) {
        if due_at >= self.measured_from {
            let waited = Instant::now().saturating_duration_since(due_at).as_nanos();
            self.latency.saturating_record(u64::try_from(waited).unwrap_or(u64::MAX));
        }
    }

    /// Records that `calls` calls in flight were lost with their connection, because of `cause`.
    #[expect(clippy::disallowed_methods, reason = "a load tool measures with the clock of this machine")]
    pub fn record_lost(&mut self, calls: u64, cause: impl FnOnce() -> String) {
        let now = Instant::now();
        self.complete_seconds_before(now);
        self.last_event = now;
        self.ended += calls;
        self.failed_in_second += calls;
        self.failures.connection += calls;
        if calls > 0 {
            self.failures.first_cause.get_or_insert_with(cause);
        }
    }

    /// Returns the number of calls that were answered or lost.
    pub const fn ended(&self) -> u64 {
        self.ended
    }

    fn complete_seconds_before(&mut self, now: Instant) {
        let second = second_of(now, self.measured_from);
        while self.second < second {
            self.complete_second();
            self.second += 1;
        }
    }

    fn complete_second(&mut self) {
        let summary =
            SecondSummary::new(self.second, self.checks_in_second, self.failed_in_second, &self.latency_in_second);
        self.latency_in_second.reset();
        (self.checks_in_second, self.failed_in_second) = (0, 0);
        if let Some(seconds) = &self.seconds {
            // The receiver may be gone.
            let _ = seconds.send(summary.clone());
        }
        if summary.second >= 0 {
            self.each_second.push(summary);
        }
    }

    /// Ends the recording. Adds the planned seconds in which nothing was answered, unless the run was `interrupted`.
    #[must_use]
    pub fn finish(mut self, plan: &LoadPlan, interrupted: bool) -> Self {
        self.seconds = None;
        let planned = match plan.length {
            RunLength::Time(time) if !interrupted => i64::try_from(time.as_secs_f64().ceil() as u64).unwrap_or(0),
            _ => 0,
        };
        while self.second + 1 < planned {
            self.complete_second();
            self.second += 1;
        }
        if self.second + 1 == planned || self.checks_in_second + self.failed_in_second > 0 {
            self.complete_second();
        }
        self
    }

    /// Adds the measurements of another thread.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        // Adding cannot fail: both histograms have the same bounds.
        let _ = self.latency.add(&other.latency);
        self.calls += other.calls;
        self.checks += other.checks;
        self.answered += other.answered;
        self.admitted += other.admitted;
        self.denied += other.denied;
        self.sent += other.sent;
        self.ended += other.ended;
        self.unlimited = self.unlimited.or(other.unlimited);
        self.failures.add(&other.failures);
        self.last_event = self.last_event.max(other.last_event);
        for second in other.each_second {
            match self.each_second.iter_mut().find(|own| own.second == second.second) {
                Some(own) => own.add(&second),
                None => self.each_second.push(second),
            }
        }
        for (own, other) in self.admitted_by_key.iter_mut().zip(other.admitted_by_key) {
            *own = own.saturating_add(other);
        }
        self
    }

    pub fn into_report(self, plan: &LoadPlan, interrupted: bool) -> Report {
        let until_last_event = self.last_event.saturating_duration_since(self.measured_from);
        let seconds = match plan.length {
            // The planned time counts in full: an unavailable server answers nothing for the rest of it.
            RunLength::Time(time) if !interrupted => time.max(until_last_event),
            _ => until_last_event,
        };
        let seconds = seconds.max(Duration::from_nanos(1)).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate needs less than 53 bits")]
        let per_second = (self.answered as f64 / seconds).round();
        Report {
            target: plan.target.to_string(),
            call: plan.call.name().to_owned(),
            batch: plan.call.checks(),
            connections: plan.connections,
            in_flight: plan.in_flight,
            threads: plan.threads,
            rate: plan.rate,
            keys: plan.keys.to_string(),
            check: plan.check.clone(),
            seed: plan.seed,
            interrupted,
            unlimited: self.unlimited.unwrap_or(false),
            warm_up_s: plan.warm_up.as_secs_f64(),
            seconds,
            sent: self.sent,
            calls: self.calls,
            checks: self.checks,
            per_second,
            admitted: self.admitted,
            denied: self.denied,
            failed: self.failures,
            max_admitted_per_key: self.admitted_by_key.iter().copied().max(),
            latency_us: LatencySummary::new(&self.latency),
            each_second: self.each_second,
        }
    }
}

/// Returns the second that contains `now`, counted from `from`. It is negative before `from`.
fn second_of(now: Instant, from: Instant) -> i64 {
    let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match now.checked_duration_since(from) {
        Some(after) => whole(after),
        None => -1 - whole((from - now).saturating_sub(Duration::from_nanos(1))),
    }
}
