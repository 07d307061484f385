//! The report of a run, as `bench` saves and shows it.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::check_template::CheckTemplate;

/// The settings and the measurements of one run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub target: String,
    pub call: String,
    /// The number of checks in one call.
    pub batch: u32,
    pub connections: u32,
    pub in_flight: u32,
    pub threads: u32,
    /// Calls per second that were due; `None` for a closed loop.
    pub rate: Option<f64>,
    pub keys: String,
    #[serde(rename = "question")]
    pub check: CheckTemplate,
    pub seed: u64,
    pub warm_up_s: f64,
    /// True if the run was stopped before its planned end.
    pub interrupted: bool,
    /// True if no limit applied to the first call.
    pub unlimited: bool,
    /// The measured time after the warm-up, including seconds in which nothing was answered.
    pub seconds: f64,
    /// Checks that were sent and answered, including the warm-up.
    pub sent: u64,
    /// Calls that were due in the measured time and of which at least one check was answered without an error.
    pub calls: u64,
    /// Checks that were answered without an error and were due in the measured time.
    pub checks: u64,
    /// Checks that were answered without an error in the measured time, whenever they were due, per second.
    pub per_second: f64,
    pub admitted: u64,
    #[serde(rename = "refused")]
    pub denied: u64,
    pub failed: FailureCounts,
    /// The largest number of admitted checks of one key, including the warm-up; `None` if there are too many keys to
    /// count each.
    #[serde(rename = "most_admitted_of_a_key")]
    pub max_admitted_per_key: Option<u32>,
    pub latency_us: LatencySummary,
    pub each_second: Vec<SecondSummary>,
}

/// The checks and calls that failed, including the warm-up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailureCounts {
    /// Checks that were answered with an error.
    pub errors: u64,
    /// Calls whose connection was lost.
    pub connection: u64,
    /// Calls that were in flight at the end and got no answer. The latencies include their waiting time until the tool
    /// gave up.
    pub unanswered: u64,
    /// Calls that were due but not sent because too many were in flight. The latencies include their waiting time.
    pub unsent: u64,
    /// The cause of the first failure.
    #[serde(rename = "first")]
    pub first_cause: Option<String>,
}

impl FailureCounts {
    pub fn add(&mut self, other: &Self) {
        self.errors += other.errors;
        self.connection += other.connection;
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
        self.first_cause = self.first_cause.take().or_else(|| other.first_cause.clone());
    }

    /// Returns the number of failed checks, if every call has `batch` checks.
    pub const fn checks(&self, batch: u32) -> u64 {
        self.errors.saturating_add((self.connection + self.unanswered + self.unsent).saturating_mul(batch as u64))
    }
}

/// Latencies in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    pub min: f64,
    pub mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    #[serde(rename = "p99.9")]
    pub p999: f64,
    #[serde(rename = "p99.99")]
    pub p9999: f64,
    pub max: f64,
    /// The points of the plotted curve: a percentile and its latency.
    pub curve: Vec<(f64, f64)>,
}

impl LatencySummary {
    /// Summarises a histogram of nanoseconds.
    pub fn new(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |percentile: f64| microseconds(histogram.value_at_quantile(percentile / 100.0));
        let mut curve: Vec<(f64, f64)> = Vec::new();
        // Ten points for each nine of the percentile, as far as there are enough measurements.
        for step in 0..=60 {
            let beyond = 10f64.powf(-f64::from(step) / 10.0);
            #[expect(clippy::cast_precision_loss, reason = "a count of measurements")]
            if beyond * (histogram.len() as f64) < 1.0 {
                break;
            }
            let percentile = 100.0 * (1.0 - beyond);
            curve.push((percentile, at(percentile)));
        }
        Self {
            min: microseconds(histogram.min()),
            mean: histogram.mean() / 1000.0,
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            p9999: at(99.99),
            max: microseconds(histogram.max()),
            curve,
        }
    }
}

/// The measurements of one second. The last second of a run may be incomplete.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SecondSummary {
    /// The number of the second, from 0 at the end of the warm-up. The seconds of the warm-up are negative.
    pub second: i64,
    /// Checks that were answered without an error in this second.
    pub checks: u64,
    /// Checks that were answered with an error in this second, and calls that lost their connection in it.
    pub failed: u64,
    /// The median latency of the calls that were answered in this second; `None` if there were none.
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub max_us: Option<f64>,
}

impl SecondSummary {
    pub fn new(second: i64, checks: u64, failed: u64, histogram: &Histogram<u64>) -> Self {
        let at = |quantile| (!histogram.is_empty()).then(|| microseconds(histogram.value_at_quantile(quantile)));
        Self { second, checks, failed, p50_us: at(0.5), p99_us: at(0.99), max_us: at(1.0) }
    }

    /// Adds the same second of another thread. Each latency becomes the higher of the two.
    pub fn add(&mut self, other: &Self) {
        let higher = |a: Option<f64>, b: Option<f64>| a.zip(b).map_or(a.or(b), |(a, b)| Some(a.max(b)));
        self.checks += other.checks;
        self.failed += other.failed;
        self.p50_us = higher(self.p50_us, other.p50_us);
        self.p99_us = higher(self.p99_us, other.p99_us);
        self.max_us = higher(self.max_us, other.max_us);
    }
}

#[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^53 ns")]
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}
