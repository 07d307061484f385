//! What a drill showed, as a row of a table.

use std::fmt;

/// One fault, and what clients saw of it. Lengths of time in milliseconds.
#[derive(Clone, Debug)]
pub struct Row {
    pub fault: String,
    pub checks: usize,
    pub longest: u64,
    /// Checks that no node decided; checks that a second node had to be asked for.
    pub failed: usize,
    pub retried: usize,
    /// In a hundred, from the fault's beginning to its end.
    pub degraded: f64,
    /// The most that one user was admitted, divided by what was promised at most.
    pub worst: f64,
    /// What all users with `deny` were admitted, divided by their limits.
    pub used: f64,
    /// From the fault's end, or its beginning where the region is to find a way around it, to the last check that was not
    /// decided as always.
    pub normal: u64,
    /// The longest waits but one in a hundred of those whose counters are elsewhere: before, and meanwhile.
    pub others: Option<(u64, u64)>,
}

pub struct Table(pub Vec<Row>);

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "| fault | checks | longest wait, ms | failed | asked twice | degraded meanwhile | admitted ÷ promised, worst user | used of `deny` limits | time to normal, ms | p99 of other primaries' keys before → meanwhile, ms |"
        )?;
        writeln!(f, "|---|---|---|---|---|---|---|---|---|---|")?;
        for row in &self.0 {
            let Row { fault, checks, longest, failed, retried, degraded, worst, used, normal, others } = row;
            let others = others.map_or("–".to_owned(), |(before, during)| format!("{before} → {during}"));
            writeln!(
                f,
                "| {fault} | {checks} | {longest} | {failed} | {retried} | {degraded:.0} % | {worst:.2} | {used:.2} | {normal} | {others} |"
            )?;
        }
        Ok(())
    }
}
