//! Two runs side by side.

use super::report::{Latency, Report};

/// One line of a comparison.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    pub what: &'static str,
    /// `None` where nothing was measured.
    pub before: Option<f64>,
    pub after: Option<f64>,
    /// Whether more is better.
    pub more: bool,
}

impl Line {
    /// The second run's part of the first's; `None` where that is 0, or nothing was measured.
    pub fn ratio(&self) -> Option<f64> {
        self.before.zip(self.after).filter(|(before, _)| *before > 0.0).map(|(before, after)| after / before)
    }

    /// Whether the second run is better by more than a twentieth, or worse.
    pub fn is_better(&self) -> Option<bool> {
        let (before, after) = self.before.zip(self.after)?;
        ((after - before).abs() > 0.05 * before).then_some((after > before) == self.more)
    }
}

/// A setting in which two runs differ.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    pub what: &'static str,
    pub before: String,
    pub after: String,
}

/// The settings in which two runs differ: whose figures then are not of the same thing.
pub fn differences(before: &Report, after: &Report) -> Vec<Difference> {
    let rate = |run: &Report| run.rate.map_or_else(|| "closed loop".to_owned(), |rate| format!("{rate} a second"));
    let settings = |run: &Report| {
        [
            ("target", run.target.clone()),
            ("call", run.call.clone()),
            ("checks a call", run.batch.to_string()),
            ("rate", rate(run)),
            ("keys", run.keys.clone()),
            ("connections", run.connections.to_string()),
            ("in flight", run.in_flight.to_string()),
            ("threads", run.threads.to_string()),
            ("domain", run.question.domain.clone()),
            ("hits", run.question.hits.to_string()),
            ("interrupted", run.interrupted.to_string()),
        ]
    };
    let both = settings(before).into_iter().zip(settings(after));
    let differ = both.filter(|((_, before), (_, after))| before != after);
    differ.map(|((what, before), (_, after))| Difference { what, before, after }).collect()
}

/// The figures of two runs.
#[expect(clippy::cast_precision_loss, reason = "counts that are shown")]
pub fn compare(before: &Report, after: &Report) -> Vec<Line> {
    let line =
        |what, more, of: fn(&Report) -> f64| Line { what, before: Some(of(before)), after: Some(of(after)), more };
    let wait = |what, of: fn(&Latency) -> f64| {
        let of = |run: &Report| (run.latency_us.max > 0.0).then(|| of(&run.latency_us));
        Line { what, before: of(before), after: of(after), more: false }
    };
    vec![
        line("checks/s", true, |r| r.per_second),
        wait("p50 (us)", |l| l.p50),
        wait("p90 (us)", |l| l.p90),
        wait("p99 (us)", |l| l.p99),
        wait("p99.9 (us)", |l| l.p999),
        wait("p99.99 (us)", |l| l.p9999),
        wait("max (us)", |l| l.max),
        line("failed", false, |r| r.failed.checks(r.batch) as f64),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faster_is_better_and_slower_is_not() {
        let line = |before, after, more| Line { what: "", before: Some(before), after: Some(after), more }.is_better();
        assert_eq!(line(100.0, 120.0, true), Some(true));
        assert_eq!(line(100.0, 120.0, false), Some(false));
        assert_eq!(line(100.0, 103.0, true), None, "that is noise");
        assert_eq!(
            (line(0.0, 3.0, false), line(0.0, 0.0, false)),
            (Some(false), None),
            "failures, where there were none"
        );
        let silent = Line { what: "", before: Some(100.0), after: None, more: false };
        assert_eq!((silent.is_better(), silent.ratio()), (None, None), "what was not measured is no better");
    }
}
