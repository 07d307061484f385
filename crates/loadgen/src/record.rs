//! What a thread measured.

use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::gate::Turn;
use super::report::{Failures, Latency, Report, Second};
use super::{Length, Plan};

/// Latencies from 1 us to 1,000 s, three digits of each.
const BOUNDS_NS: (u64, u64) = (1000, 1_000_000_000_000);

/// What became of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Admitted,
    Refused,
    /// The server answered with an error.
    Error,
}

/// The most keys of which each is counted.
pub const MAX_COUNTED: u64 = 20_000_000;

pub struct Recorder {
    measured_from: Instant,
    /// When something came back last, or was lost.
    last: Instant,
    latency: Histogram<u64>,
    calls: u64,
    checks: u64,
    /// Checks answered in the time that is measured, whenever they were due.
    answered: u64,
    admitted: u64,
    refused: u64,
    pub failures: Failures,
    /// All that were asked, the warm-up's too.
    sent: u64,
    /// Calls that came back or were lost, the warm-up's too.
    ended: u64,
    /// The answer to one call at least was looked into: no limit applied.
    pub unlimited: Option<bool>,
    second: i64,
    of_second: Histogram<u64>,
    checks_of_second: u64,
    failed_of_second: u64,
    each_second: Vec<Second>,
    /// Who is told of seconds, until the end.
    seconds: Option<mpsc::Sender<Second>>,
    /// Checks admitted of each key, from the beginning.
    by_key: Vec<u32>,
}

impl Recorder {
    pub fn new(plan: &Plan, begin: Instant, seconds: mpsc::Sender<Second>) -> io::Result<Self> {
        let histogram = || Histogram::new_with_bounds(BOUNDS_NS.0, BOUNDS_NS.1, 3).map_err(io::Error::other);
        let counted =
            if plan.keys.count() <= MAX_COUNTED { usize::try_from(plan.keys.count()).unwrap_or(0) } else { 0 };
        Ok(Self {
            measured_from: begin + plan.warm_up,
            last: begin,
            latency: histogram()?,
            calls: 0,
            checks: 0,
            answered: 0,
            admitted: 0,
            refused: 0,
            failures: Failures::default(),
            sent: 0,
            ended: 0,
            unlimited: None,
            second: second_of(begin, begin + plan.warm_up),
            of_second: histogram()?,
            checks_of_second: 0,
            failed_of_second: 0,
            each_second: Vec::new(),
            seconds: Some(seconds),
            // Zeroed pages cost nothing until they are used.
            by_key: vec![0; counted],
        })
    }

    /// A call is back.
    #[expect(clippy::disallowed_methods, reason = "a load tool measures the clock of this machine")]
    pub fn back(&mut self, turn: Turn, checks: impl Iterator<Item = (u64, Outcome)>) {
        let now = Instant::now();
        self.turn_second(now);
        let measured = turn.intended >= self.measured_from;
        let (mut count, mut errors) = (0, 0);
        for (key, outcome) in checks {
            count += 1;
            match outcome {
                Outcome::Admitted => {
                    self.admitted += u64::from(measured);
                    if let Some(count) = usize::try_from(key).ok().and_then(|key| self.by_key.get_mut(key)) {
                        *count = count.saturating_add(1);
                    }
                }
                Outcome::Refused => self.refused += u64::from(measured),
                Outcome::Error => errors += 1,
            }
        }
        self.sent += count;
        self.ended += 1;
        self.last = now;
        self.failures.errors += errors;
        self.failed_of_second += errors;
        self.checks_of_second += count - errors;
        if self.second >= 0 {
            self.answered += count - errors;
        }
        // What failed at once would make a server look fast.
        let latency = u64::try_from(now.saturating_duration_since(turn.intended).as_nanos()).unwrap_or(u64::MAX);
        if count > errors && (measured || self.second < 0) {
            self.of_second.saturating_record(latency);
        }
        if count > errors && measured {
            self.latency.saturating_record(latency);
            self.calls += 1;
            self.checks += count - errors;
        }
    }

    /// A call that was due at `intended` was not answered by now: it waited for so long, at least. Left out, a server that hangs
    /// would look as good as before.
    #[expect(clippy::disallowed_methods, reason = "a load tool measures the clock of this machine")]
    pub fn never(&mut self, intended: Instant) {
        if intended >= self.measured_from {
            let waited = Instant::now().saturating_duration_since(intended).as_nanos();
            self.latency.saturating_record(u64::try_from(waited).unwrap_or(u64::MAX));
        }
    }

    /// So many calls under way were lost.
    #[expect(clippy::disallowed_methods, reason = "a load tool measures the clock of this machine")]
    pub fn lost(&mut self, calls: u64, why: impl FnOnce() -> String) {
        let now = Instant::now();
        self.turn_second(now);
        self.last = now;
        self.ended += calls;
        self.failed_of_second += calls;
        self.failures.connection += calls;
        if calls > 0 {
            self.failures.first.get_or_insert_with(why);
        }
    }

    /// Calls that came back or were lost.
    pub const fn ended(&self) -> u64 {
        self.ended
    }

    /// Seconds that are over are told.
    fn turn_second(&mut self, now: Instant) {
        let second = second_of(now, self.measured_from);
        while self.second < second {
            self.tell();
            self.second += 1;
        }
    }

    fn tell(&mut self) {
        let told = Second::of(self.second, self.checks_of_second, self.failed_of_second, &self.of_second);
        self.of_second.reset();
        (self.checks_of_second, self.failed_of_second) = (0, 0);
        if let Some(seconds) = &self.seconds {
            // Nobody need listen.
            let _ = seconds.send(told.clone());
        }
        if told.second >= 0 {
            self.each_second.push(told);
        }
    }

    /// Nothing comes any more. Seconds of the plan in which nothing came back are told as such, unless it was `interrupted`.
    #[must_use]
    pub fn end(mut self, plan: &Plan, interrupted: bool) -> Self {
        self.seconds = None;
        let planned = match plan.length {
            Length::Time(time) if !interrupted => i64::try_from(time.as_secs_f64().ceil() as u64).unwrap_or(0),
            _ => 0,
        };
        while self.second + 1 < planned {
            self.tell();
            self.second += 1;
        }
        if self.second + 1 == planned || self.checks_of_second + self.failed_of_second > 0 {
            self.tell();
        }
        self
    }

    /// Together with what another thread measured.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        // Both have the same bounds.
        let _ = self.latency.add(&other.latency);
        self.calls += other.calls;
        self.checks += other.checks;
        self.answered += other.answered;
        self.admitted += other.admitted;
        self.refused += other.refused;
        self.sent += other.sent;
        self.ended += other.ended;
        self.unlimited = self.unlimited.or(other.unlimited);
        self.failures.add(&other.failures);
        self.last = self.last.max(other.last);
        for second in other.each_second {
            match self.each_second.iter_mut().find(|own| own.second == second.second) {
                Some(own) => own.add(&second),
                None => self.each_second.push(second),
            }
        }
        for (own, other) in self.by_key.iter_mut().zip(other.by_key) {
            *own = own.saturating_add(other);
        }
        self
    }

    pub fn report(self, plan: &Plan, interrupted: bool) -> Report {
        let until_last = self.last.saturating_duration_since(self.measured_from);
        let seconds = match plan.length {
            // Where a server is gone nothing comes back any more, and the time goes on.
            Length::Time(time) if !interrupted => time.max(until_last),
            _ => until_last,
        };
        let seconds = seconds.max(Duration::from_nanos(1)).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
        let per_second = (self.answered as f64 / seconds).round();
        Report {
            target: plan.target.to_string(),
            call: plan.call.name().to_owned(),
            batch: plan.call.batch(),
            connections: plan.connections,
            in_flight: plan.in_flight,
            threads: plan.threads,
            rate: plan.rate,
            keys: plan.keys.to_string(),
            question: plan.question.clone(),
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
            refused: self.refused,
            failed: self.failures,
            most_admitted_of_a_key: self.by_key.iter().copied().max(),
            latency_us: Latency::of(&self.latency),
            each_second: self.each_second,
        }
    }
}

/// The second of `now`, counted from `from` on, and below 0 before.
fn second_of(now: Instant, from: Instant) -> i64 {
    let whole = |time: Duration| i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    match now.checked_duration_since(from) {
        Some(after) => whole(after),
        None => -1 - whole((from - now).saturating_sub(Duration::from_nanos(1))),
    }
}
