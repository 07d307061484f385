//! What a run measured, as it is saved and shown.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use super::calls::Question;

/// One run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Report {
    pub target: String,
    pub call: String,
    /// Checks in one call.
    pub batch: u32,
    pub connections: u32,
    pub in_flight: u32,
    pub threads: u32,
    /// Calls a second that were to be sent; absent in a closed loop.
    pub rate: Option<f64>,
    pub keys: String,
    /// What was asked.
    pub question: Question,
    pub seed: u64,
    pub warm_up_s: f64,
    /// Somebody ended it before its time.
    pub interrupted: bool,
    /// No limit applied to what was asked first.
    pub unlimited: bool,
    /// What follows is of so many seconds after the warm-up, those in which nothing came back among them.
    pub seconds: f64,
    /// Checks sent and answered in all, the warm-up's too.
    pub sent: u64,
    pub calls: u64,
    /// Checks that were answered, of those that were due in that time.
    pub checks: u64,
    /// Checks that were answered in that time, whenever they were due, by its seconds.
    pub per_second: f64,
    pub admitted: u64,
    pub refused: u64,
    pub failed: Failures,
    /// Of the whole run, the warm-up too; `None` where there are too many keys to count each.
    pub most_admitted_of_a_key: Option<u32>,
    pub latency_us: Latency,
    pub each_second: Vec<Second>,
}

/// What was not answered as it should be, of the whole run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failures {
    /// Checks that were answered with an error.
    pub errors: u64,
    /// Calls whose connection was lost.
    pub connection: u64,
    /// Calls that were under way at the end, and did not come back. They are among the latencies, as though they had come back when
    /// they were given up.
    pub unanswered: u64,
    /// Calls that were due, and not sent because too many were under way; among the latencies, too.
    pub unsent: u64,
    /// The first of them.
    pub first: Option<String>,
}

impl Failures {
    pub fn add(&mut self, other: &Self) {
        self.errors += other.errors;
        self.connection += other.connection;
        self.unanswered += other.unanswered;
        self.unsent += other.unsent;
        self.first = self.first.take().or_else(|| other.first.clone());
    }

    /// All of them in checks, of which a call has `batch`.
    pub const fn checks(&self, batch: u32) -> u64 {
        self.errors.saturating_add((self.connection + self.unanswered + self.unsent).saturating_mul(batch as u64))
    }
}

/// Latencies in microseconds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Latency {
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
    /// Percentile and latency, to be drawn.
    pub curve: Vec<(f64, f64)>,
}

impl Latency {
    pub fn of(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |percentile: f64| us(histogram.value_at_quantile(percentile / 100.0));
        let mut curve: Vec<(f64, f64)> = Vec::new();
        // Ten points for each nine, as far as there are measurements.
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
            min: us(histogram.min()),
            mean: histogram.mean() / 1000.0,
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            p9999: at(99.99),
            max: us(histogram.max()),
            curve,
        }
    }
}

/// One second of what is measured; the last may be a part of one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Second {
    /// From the end of the warm-up on, whose seconds are below 0.
    pub second: i64,
    /// Checks that were answered in it.
    pub checks: u64,
    /// Checks that were answered with an error in it, and calls whose connection was lost.
    pub failed: u64,
    /// Latencies of what was answered in it; `None` where nothing was.
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub max_us: Option<f64>,
}

impl Second {
    pub fn of(second: i64, checks: u64, failed: u64, histogram: &Histogram<u64>) -> Self {
        let at = |quantile| (!histogram.is_empty()).then(|| us(histogram.value_at_quantile(quantile)));
        Self { second, checks, failed, p50_us: at(0.5), p99_us: at(0.99), max_us: at(1.0) }
    }

    /// Together with what another thread measured: the worse of both.
    pub fn add(&mut self, other: &Self) {
        let worse = |a: Option<f64>, b: Option<f64>| a.zip(b).map_or(a.or(b), |(a, b)| Some(a.max(b)));
        self.checks += other.checks;
        self.failed += other.failed;
        self.p50_us = worse(self.p50_us, other.p50_us);
        self.p99_us = worse(self.p99_us, other.p99_us);
        self.max_us = worse(self.max_us, other.max_us);
    }
}

#[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^53 ns")]
fn us(nanos: u64) -> f64 {
    nanos as f64 / 1000.0
}
