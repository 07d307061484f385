//! What a thread measured.

use std::io;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::Plan;
use super::gate::Turn;
use super::report::{Failures, Latency, Report, Second};

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

pub struct Recorder {
    begin: Instant,
    measured_from: Instant,
    last: Instant,
    latency: Histogram<u64>,
    calls: u64,
    checks: u64,
    admitted: u64,
    refused: u64,
    pub failures: Failures,
    /// All that were asked, the warm-up's too.
    sent: u64,
    second: u64,
    of_second: Histogram<u64>,
    checks_of_second: u64,
    each_second: Vec<Second>,
    /// Who is told of seconds, until the end.
    seconds: Option<mpsc::Sender<Second>>,
    /// Checks admitted of each key, from the beginning.
    by_key: Vec<u32>,
}

impl Recorder {
    pub fn new(plan: &Plan, begin: Instant, seconds: mpsc::Sender<Second>) -> io::Result<Self> {
        let histogram = || Histogram::new_with_bounds(BOUNDS_NS.0, BOUNDS_NS.1, 3).map_err(io::Error::other);
        Ok(Self {
            begin,
            measured_from: begin + plan.warm_up,
            last: begin + plan.warm_up,
            latency: histogram()?,
            calls: 0,
            checks: 0,
            admitted: 0,
            refused: 0,
            failures: Failures::default(),
            sent: 0,
            second: 0,
            of_second: histogram()?,
            checks_of_second: 0,
            each_second: Vec::new(),
            seconds: Some(seconds),
            by_key: Vec::new(),
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
                    if let Ok(key) = usize::try_from(key) {
                        if self.by_key.len() <= key {
                            self.by_key.resize(key + 1, 0);
                        }
                        self.by_key[key] = self.by_key[key].saturating_add(1);
                    }
                }
                Outcome::Refused => self.refused += u64::from(measured),
                Outcome::Error => errors += 1,
            }
        }
        self.sent += count;
        self.failures.errors += errors;
        self.checks_of_second += count - errors;
        let latency = u64::try_from(now.saturating_duration_since(turn.intended).as_nanos()).unwrap_or(u64::MAX);
        self.of_second.saturating_record(latency);
        if measured {
            self.latency.saturating_record(latency);
            self.calls += 1;
            self.checks += count - errors;
            self.last = now;
        }
    }

    /// Seconds that are over are told.
    fn turn_second(&mut self, now: Instant) {
        let second = now.saturating_duration_since(self.begin).as_secs();
        while self.second < second {
            let told = Second::of(self.second, self.checks_of_second, &self.of_second);
            self.of_second.reset();
            (self.checks_of_second, self.second) = (0, self.second + 1);
            if let Some(seconds) = &self.seconds {
                // Nobody need listen.
                let _ = seconds.send(told.clone());
            }
            self.each_second.push(told);
        }
    }

    /// Nothing comes any more.
    #[must_use]
    pub fn end(self) -> Self {
        Self { seconds: None, ..self }
    }

    /// Together with what another thread measured.
    #[must_use]
    pub fn merge(mut self, other: Self) -> Self {
        // Both have the same bounds.
        let _ = self.latency.add(&other.latency);
        self.calls += other.calls;
        self.checks += other.checks;
        self.admitted += other.admitted;
        self.refused += other.refused;
        self.sent += other.sent;
        self.failures.add(&other.failures);
        self.last = self.last.max(other.last);
        for second in other.each_second {
            match self.each_second.iter_mut().find(|own| own.second == second.second) {
                Some(own) => own.add(&second),
                None => self.each_second.push(second),
            }
        }
        if self.by_key.len() < other.by_key.len() {
            self.by_key.resize(other.by_key.len(), 0);
        }
        for (own, other) in self.by_key.iter_mut().zip(other.by_key) {
            *own = own.saturating_add(other);
        }
        self
    }

    pub fn report(self, plan: &Plan) -> Report {
        let seconds =
            self.last.saturating_duration_since(self.measured_from).max(Duration::from_nanos(1)).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no 53 bits")]
        let per_second = (self.checks as f64 / seconds).round();
        Report {
            target: plan.target.to_string(),
            call: plan.call.name().to_owned(),
            batch: plan.call.batch(),
            connections: plan.connections,
            in_flight: plan.in_flight,
            threads: plan.threads,
            rate: plan.rate,
            keys: plan.keys.to_string(),
            warm_up_s: plan.warm_up.as_secs_f64(),
            seconds,
            sent: self.sent,
            calls: self.calls,
            checks: self.checks,
            per_second,
            admitted: self.admitted,
            refused: self.refused,
            failed: self.failures,
            most_admitted_of_a_key: self.by_key.iter().copied().max().unwrap_or(0),
            latency_us: Latency::of(&self.latency),
            each_second: self.each_second,
        }
    }
}
