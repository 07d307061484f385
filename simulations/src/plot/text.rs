//! A picture for a terminal.

use std::fmt::Write;

use super::busiest::{busiest, end};
use crate::run::Run;

/// The number of columns.
const WIDTH: u64 = 100;
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Draws the busiest counters and the faults. A column is a hundredth of the time. A full bar is the limit, or the
/// largest limit if edits change it. `▲` is more than that.
pub fn text(run: &Run) -> String {
    let mut out = String::new();
    let column_us = end(run) / WIDTH + 1;
    let column = |at: u64| usize::try_from((at / column_us).min(WIDTH - 1)).unwrap_or(0);
    let width = usize::try_from(WIDTH).unwrap_or(0);
    for counter in busiest(run) {
        // The highest level of each column. A column begins with the last level of the column before.
        let (mut columns, mut last, mut at) = (vec![(0, 0); width], (0, 0), 0);
        for level in &counter.levels {
            for passed in &mut columns[at..column(level.at)] {
                *passed = (*passed).max(last);
            }
            at = column(level.at);
            columns[at] = columns[at].max(last).max((level.hits, level.degraded));
            last = (level.hits, level.degraded);
        }
        columns[at..].iter_mut().for_each(|rest| *rest = (*rest).max(last));
        let full = counter.allowed.iter().map(|(_, limit)| *limit).max().unwrap_or(0).max(1);
        let bar = |(hits, _): &(u64, u64)| match usize::try_from((hits * 8).div_ceil(full)) {
            Ok(eighths @ 0..=8) => BARS[eighths],
            _ => '▲',
        };
        let degraded = |(_, degraded): &(u64, u64)| if *degraded > 0 { '!' } else { ' ' };
        // Writing to a `String` cannot fail.
        let _ = writeln!(out, "\n{}", counter.title());
        let _ = writeln!(
            out,
            "used     |{}| a full bar is {full} hits, ▲ is more",
            columns.iter().map(bar).collect::<String>()
        );
        let _ = writeln!(
            out,
            "degraded |{}| ! some hits were admitted without the store",
            columns.iter().map(degraded).collect::<String>()
        );
    }
    for fault in &run.plan.faults {
        let (first, last) = (column(fault.begin), column(fault.end));
        let shade = |at: usize| if (first..=last).contains(&at) { '▒' } else { ' ' };
        let line: String = (0..width).map(shade).collect();
        let _ = writeln!(out, "fault    |{line}| {}", fault.kind);
    }
    out
}
