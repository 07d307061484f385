//! A picture for a terminal.

use std::collections::BTreeSet;
use std::fmt::Write;

use super::busiest::{BusyCounter, busiest, end, highest};
use super::usage_levels::Level;
use crate::run::Run;
use limiter::rules::OnStoreFailure;

/// The number of columns of time. With the names before them, a line fits into a terminal of 80 columns.
const WIDTH: usize = 68;
/// The most ticks of the time axis.
const TICKS: u32 = 11;
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// The time that a column shows.
struct Columns {
    /// The length of a column, in microseconds.
    us: u64,
}

impl Columns {
    fn at(&self, us: u64) -> usize {
        usize::try_from(us / self.us).map_or(WIDTH - 1, |column| column.min(WIDTH - 1))
    }

    /// Returns the highest level of each column: the hits, and those that were admitted without the store. A column
    /// begins with the last level of the column before.
    fn highest(&self, levels: &[Level]) -> Vec<(u64, u64)> {
        let (mut highest, mut last, mut at) = (vec![(0, 0); WIDTH], (0, 0), 0);
        for level in levels {
            for passed in &mut highest[at..self.at(level.at)] {
                *passed = (*passed).max(last);
            }
            at = self.at(level.at);
            highest[at] = highest[at].max(last).max((level.hits, level.degraded));
            last = (level.hits, level.degraded);
        }
        highest[at..].iter_mut().for_each(|rest| *rest = (*rest).max(last));
        highest
    }
}

/// Returns a bar for each level. `full` is the limit.
fn bars(levels: &[(u64, u64)], full: u64) -> String {
    let bar = |(hits, _): &(u64, u64)| match usize::try_from((hits * 8).div_ceil(full)) {
        Ok(eighths @ 0..=8) => BARS[eighths],
        _ => '▲',
    };
    levels.iter().map(bar).collect()
}

/// Draws the busiest counters and the faults over time. A full bar is the limit, or the largest limit if edits change
/// it. `▲` is more than that.
pub fn text(run: &Run) -> String {
    let mut out = String::new();
    let columns = Columns { us: end(run) / WIDTH as u64 + 1 };
    for counter in busiest(run) {
        out += &draw_counter(&counter, &columns);
    }
    if !run.plan.faults.is_empty() {
        out.push('\n');
        for fault in &run.plan.faults {
            let (first, last) = (columns.at(fault.begin), columns.at(fault.end));
            let shade = |at: usize| if (first..=last).contains(&at) { '▒' } else { ' ' };
            let line: String = (0..WIDTH).map(shade).collect();
            // Writing to a `String` cannot fail.
            let region = run.plan.regions.prefix(fault.region);
            let _ = writeln!(out, "fault    |{line}|\n          {region}{}", fault.kind);
        }
        out += &time_axis(&columns);
    }
    out
}

fn draw_counter(counter: &BusyCounter<'_>, columns: &Columns) -> String {
    let full = counter.allowed.iter().map(|(_, limit)| *limit).max().unwrap_or(0).max(1);
    let all = columns.highest(&counter.levels);
    let used = bars(&all, full);
    let mut out = format!("\n{}\n", counter.title);
    // Writing to a `String` cannot fail.
    for (region, levels) in &counter.by_region {
        let _ = writeln!(out, "{:<9}|{}|", format!("region {region}"), bars(&columns.highest(levels), full));
    }
    let _ = writeln!(out, "{:<9}|{used}|", if counter.by_region.is_empty() { "used" } else { "together" });
    for (region, levels) in &counter.rights {
        let _ = writeln!(out, "{:<9}|{}|", format!("rights {region}"), bars(&columns.highest(levels), full));
    }
    for (region, at) in &counter.partitioned {
        let columns: BTreeSet<usize> = at.iter().map(|at| columns.at(*at)).collect();
        let line: String = (0..WIDTH).map(|column| if columns.contains(&column) { '~' } else { ' ' }).collect();
        let _ = writeln!(out, "{:<9}|{line}|", format!("cut off {region}"));
    }
    let degraded: String = all.iter().map(|(_, hits)| if *hits > 0 { '!' } else { ' ' }).collect();
    let mut legend = vec![format!("█ the limit, {full} hits")];
    if !counter.by_region.is_empty() {
        let regions = counter.by_region.iter().map(|(region, levels)| format!("region {region} {}", highest(levels)));
        let regions = regions.collect::<Vec<_>>().join(", ");
        legend.push(format!("most hits at once: {regions}, together {}", highest(&counter.levels)));
    }
    if !counter.rights.is_empty() {
        legend.push("rights: those that a region had left when its store was asked".to_owned());
    }
    if !counter.partitioned.is_empty() {
        legend.push("~ a region does not hear this one, so it decides as on_partition says".to_owned());
    }
    if used.contains('▲') {
        legend.push("▲ more than the limit".to_owned());
    }
    if degraded.contains('!') {
        let _ = writeln!(out, "degraded |{degraded}|");
        legend.push("! some hits were admitted without the store".to_owned());
        if counter.limit.on_store_failure == OnStoreFailure::Allow {
            legend.push("  (on_store_failure: allow sets no limit for these)".to_owned());
        }
    }
    out += &time_axis(columns);
    for line in legend {
        let _ = writeln!(out, "          {line}");
    }
    out
}

/// Returns the line with the time of some columns. A text begins at its column.
fn time_axis(columns: &Columns) -> String {
    #[expect(clippy::cast_precision_loss, reason = "seconds of a simulation")]
    let end = (columns.us * WIDTH as u64) as f64 / 1e6;
    let (ticks, decimals) = charts::round_ticks(0.0, end, TICKS, 0.0);
    let mut line = String::new();
    for tick in ticks {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds of a simulation")]
        let column = columns.at((tick * 1e6).round() as u64);
        let text = format!("{tick:.decimals$}");
        if column >= line.len() && column + text.len() <= WIDTH {
            line += &" ".repeat(column - line.len());
            line += &text;
        }
    }
    format!("seconds   {line}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_axis_has_round_seconds_that_begin_at_their_columns() {
        for (us, expected) in [
            (10_000, "seconds   0.0       0.1       0.2       0.3"),
            (100_000, "seconds   0         1         2         3"),
            (37_000, "seconds   0.0          0.5           1.0"),
        ] {
            let line = time_axis(&Columns { us });
            assert!(line.starts_with(expected), "{line}");
            assert!(line.chars().count() <= 10 + WIDTH + 1, "{line}");
        }
    }
}
