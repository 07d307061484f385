//! Compares two runs.

use crate::report::{LatencySummary, Report};

/// One figure of two runs.
#[derive(Clone, Debug, PartialEq)]
pub struct ComparedFigure {
    pub name: &'static str,
    /// The figure of the first run; `None` if it was not measured.
    pub before: Option<f64>,
    /// The figure of the second run; `None` if it was not measured.
    pub after: Option<f64>,
    /// True if a higher figure is better.
    pub higher_is_better: bool,
}

impl ComparedFigure {
    /// Returns the second figure divided by the first; `None` if the first is 0 or one was not measured.
    pub fn ratio(&self) -> Option<f64> {
        self.before.zip(self.after).filter(|(before, _)| *before > 0.0).map(|(before, after)| after / before)
    }

    /// Returns true if the second run is better and false if it is worse; `None` if the two differ by 5 % or less.
    pub fn is_better(&self) -> Option<bool> {
        let (before, after) = self.before.zip(self.after)?;
        ((after - before).abs() > 0.05 * before).then_some((after > before) == self.higher_is_better)
    }
}

/// A setting that has different values in two runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SettingDifference {
    pub name: &'static str,
    pub before: String,
    pub after: String,
}

/// Returns the settings that differ between two runs. The figures of such runs do not measure the same thing.
pub fn compare_settings(before: &Report, after: &Report) -> Vec<SettingDifference> {
    let rate = |run: &Report| run.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{rate} calls/s"));
    let settings = |run: &Report| {
        [
            ("target", run.target.clone()),
            ("call", run.call.clone()),
            ("checks per call", run.batch.to_string()),
            ("rate", rate(run)),
            ("keys", run.keys.clone()),
            ("connections", run.connections.to_string()),
            ("in flight", run.in_flight.to_string()),
            ("threads", run.threads.to_string()),
            ("domain", run.check.domain.clone()),
            ("hits", run.check.hits.to_string()),
            ("interrupted", run.interrupted.to_string()),
        ]
    };
    let both = settings(before).into_iter().zip(settings(after));
    let differ = both.filter(|((_, before), (_, after))| before != after);
    differ.map(|((name, before), (_, after))| SettingDifference { name, before, after }).collect()
}

/// Returns the figures of two runs side by side.
#[expect(clippy::cast_precision_loss, reason = "counts that are shown")]
pub fn compare_figures(before: &Report, after: &Report) -> Vec<ComparedFigure> {
    let figure = |name, higher_is_better, of: fn(&Report) -> f64| ComparedFigure {
        name,
        before: Some(of(before)),
        after: Some(of(after)),
        higher_is_better,
    };
    let latency = |name, of: fn(&LatencySummary) -> Option<f64>| ComparedFigure {
        name,
        before: of(&before.latency_us),
        after: of(&after.latency_us),
        higher_is_better: false,
    };
    vec![
        figure("checks/s", true, |r| r.per_second),
        latency("p50 (us)", |l| l.p50),
        latency("p90 (us)", |l| l.p90),
        latency("p99 (us)", |l| l.p99),
        latency("p99.9 (us)", |l| l.p999),
        latency("p99.99 (us)", |l| l.p9999),
        latency("max (us)", |l| l.max),
        figure("failed", false, |r| r.failed.checks(r.batch) as f64),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure(before: f64, after: Option<f64>, higher_is_better: bool) -> ComparedFigure {
        ComparedFigure { name: "", before: Some(before), after, higher_is_better }
    }

    #[test]
    fn a_difference_above_five_percent_is_better_or_worse() {
        let is_better = |before, after, higher| figure(before, Some(after), higher).is_better();
        assert_eq!(is_better(100.0, 120.0, true), Some(true));
        assert_eq!(is_better(100.0, 120.0, false), Some(false));
        assert_eq!(is_better(100.0, 103.0, true), None, "3 % is noise");
        assert_eq!(is_better(0.0, 3.0, false), Some(false), "failures after a run without any are worse");
        assert_eq!(is_better(0.0, 0.0, false), None);
    }

    #[test]
    fn a_figure_that_was_not_measured_has_no_ratio_and_is_not_better() {
        let unmeasured = figure(100.0, None, false);
        assert_eq!((unmeasured.is_better(), unmeasured.ratio()), (None, None));
    }
}
