//! The report of a run, as `bench` saves and shows it.

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

use crate::check_template::CheckTemplate;
use crate::percentile::{Percentile, highest_quantile};

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

/// Latencies in microseconds. `None` if nothing was measured, and for percentiles for which too little was measured
/// ([`Percentile::needs`]).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LatencySummary {
    pub min: Option<f64>,
    pub mean: Option<f64>,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    #[serde(rename = "p99.9")]
    pub p999: Option<f64>,
    #[serde(rename = "p99.99")]
    pub p9999: Option<f64>,
    pub max: Option<f64>,
    /// The points of the plotted curve: a percentile and its latency, up to the highest percentile that the number of
    /// measurements supports.
    pub curve: Vec<(f64, f64)>,
}

impl LatencySummary {
    /// Summarises a histogram of nanoseconds.
    pub fn new(histogram: &Histogram<u64>) -> Self {
        if histogram.is_empty() {
            return Self::default();
        }
        let point = |quantile: f64| (100.0 * quantile, microseconds(histogram.value_at_quantile(quantile)));
        let highest = highest_quantile(histogram.len());
        // Ten points for each nine of the percentile.
        let quantiles = (0..=60).map(|step| 1.0 - 10f64.powf(-f64::from(step) / 10.0));
        let supported = quantiles.take_while(|quantile| highest.is_some_and(|highest| *quantile < highest));
        let at = |percentile| percentile_us(histogram, percentile);
        Self {
            min: Some(microseconds(histogram.min())),
            mean: Some(histogram.mean() / 1000.0),
            p50: at(Percentile::P50),
            p90: at(Percentile::P90),
            p99: at(Percentile::P99),
            p999: at(Percentile::P999),
            p9999: at(Percentile::P9999),
            max: Some(microseconds(histogram.max())),
            curve: supported.chain(highest).map(point).collect(),
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
    /// The median latency of the calls that were answered in this second; `None` if there were too few.
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
    pub max_us: Option<f64>,
}

impl SecondSummary {
    pub fn new(second: i64, checks: u64, failed: u64, histogram: &Histogram<u64>) -> Self {
        let [p50_us, p99_us] = [Percentile::P50, Percentile::P99].map(|p| percentile_us(histogram, p));
        let max_us = (!histogram.is_empty()).then(|| microseconds(histogram.max()));
        Self { second, checks, failed, p50_us, p99_us, max_us }
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

/// Returns a percentile of a histogram of nanoseconds; `None` if it has too few measurements.
fn percentile_us(histogram: &Histogram<u64>, percentile: Percentile) -> Option<f64> {
    (histogram.len() >= percentile.needs()).then(|| microseconds(histogram.value_at_quantile(percentile.quantile())))
}

/// Formats a latency with the unit that fits its size.
pub fn format_latency(us: f64) -> String {
    if us >= 1e6 {
        format!("{:.2} s", us / 1e6)
    } else if us >= 1000.0 {
        format!("{:.2} ms", us / 1000.0)
    } else {
        format!("{us:.0} us")
    }
}

#[expect(clippy::cast_precision_loss, reason = "latencies are far below 2^53 ns")]
fn microseconds(nanoseconds: u64) -> f64 {
    nanoseconds as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a histogram of latencies from 1 to `count` us.
    fn histogram(count: u64) -> Histogram<u64> {
        let mut histogram = Histogram::new_with_bounds(1000, 1_000_000_000, 3).unwrap();
        (1..=count).for_each(|us| histogram.record(us * 1000).unwrap());
        histogram
    }

    #[test]
    fn only_percentiles_with_ten_measurements_beyond_are_reported() {
        for (count, percentiles) in
            [(0, 0), (1, 0), (19, 0), (20, 1), (99, 1), (100, 2), (999, 2), (1000, 3), (10_000, 4), (100_000, 5)]
        {
            let summary = LatencySummary::new(&histogram(count));
            let LatencySummary { p50, p90, p99, p999, p9999, .. } = summary;
            let reported: Vec<bool> = [p50, p90, p99, p999, p9999].iter().map(Option::is_some).collect();
            assert_eq!(reported, (0..5).map(|at| at < percentiles).collect::<Vec<_>>(), "{count} measurements");
            assert_eq!((summary.min.is_some(), summary.max.is_some()), (count > 0, count > 0), "{count} measurements");
            let last = summary.curve.last().map(|(percentile, _)| *percentile);
            let highest = (count > 10).then(|| 100.0 * (1.0 - 10.0 / count as f64));
            assert_eq!(last, highest, "the curve of {count} measurements ends with ten beyond it");
            let second = SecondSummary::new(0, count, 0, &histogram(count));
            assert_eq!((second.p50_us.is_some(), second.p99_us.is_some()), (count >= 20, count >= 1000));
            assert_eq!(second.max_us.is_some(), count > 0);
        }
    }

    #[test]
    fn a_percentile_that_is_not_reported_is_null_in_json_and_comes_back_as_none() {
        let summary = LatencySummary::new(&histogram(150));
        let json = serde_json::to_value(&summary).unwrap();
        assert!(json["p99"].is_null() && json["p99.99"].is_null() && json["p90"].is_number(), "{json}");
        assert_eq!(serde_json::from_value::<LatencySummary>(json).unwrap(), summary);
    }
}
