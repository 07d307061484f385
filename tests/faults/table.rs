//! The result of a drill as a row of a Markdown table.

use std::fmt;

/// The result of one fault as the clients saw it.
#[derive(Clone, Debug)]
pub struct Row {
    pub fault: String,
    /// Number of checks.
    pub checks: usize,
    /// The longest time until an answer.
    pub longest_wait_ms: u64,
    /// Number of checks without an answer.
    pub failed: usize,
    /// Number of checks that were answered by another node than the first.
    pub retried: usize,
    /// The percentage of abnormal checks between the start and the end of the fault.
    pub degraded_percent: f64,
    /// The maximum over all users of admitted hits divided by promised hits.
    pub worst_ratio: f64,
    /// The admitted hits of all users with `deny`, divided by the sum of their limits.
    pub used_ratio: f64,
    /// The time to the last abnormal check. It starts at the end of the fault, or at its start if the region must
    /// recover during the fault.
    pub recovery_ms: u64,
    /// The 90th percentile of the waits for users whose counters are on other primaries: before the fault and during
    /// it. A second before the fault has too few checks for the 99th.
    pub others_p90_ms: Option<(Option<u64>, Option<u64>)>,
}

/// The results of all drills of one region.
pub struct Table(pub Vec<Row>);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| fault | checks | longest wait, ms | failed | retried | degraded meanwhile | admitted ÷ promised, worst user | used of `deny` limits | time to normal, ms | p90 of other primaries' keys before → meanwhile, ms |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|---|")?;
        for row in &self.0 {
            let Row { fault, checks, longest_wait_ms, failed, retried, degraded_percent, .. } = row;
            let Row { worst_ratio, used_ratio, recovery_ms, others_p90_ms, .. } = row;
            let ms = |ms: Option<u64>| ms.map_or("–".to_owned(), |ms| ms.to_string());
            let others =
                others_p90_ms.map_or("–".to_owned(), |(before, during)| format!("{} → {}", ms(before), ms(during)));
            writeln!(
                f,
                "| {fault} | {checks} | {longest_wait_ms} | {failed} | {retried} | {degraded_percent:.0} % | {worst_ratio:.2} | {used_ratio:.2} | {recovery_ms} | {others} |"
            )?;
        }
        Ok(())
    }
}
