//! A simulation as a picture for a terminal: what the busiest counters admitted over time against their limit, and when
//! something was wrong.

use std::fmt::Write;

use super::oracle::usages;
use super::plan::describe;
use super::run::{Run, most};

/// Columns of the picture.
const WIDTH: u64 = 100;
/// Counters that are drawn at most.
const MOST: usize = 3;
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// Draws the counters that admitted most; a column is a hundredth of the time, and as high as the most admitted in any.
pub fn draw(run: &Run) -> String {
    let mut out = String::new();
    let end = run.ledger.asked.iter().filter_map(|asked| asked.answer.as_ref().map(|(at, _)| *at)).max().unwrap_or(0);
    let column_us = end / WIDTH + 1;
    let column = |at: u64| usize::try_from((at / column_us).min(WIDTH - 1)).unwrap_or(0);
    let mut usages = usages(&run.plan, &run.ledger);
    usages.sort_by_key(|usage| std::cmp::Reverse(usage.hits.len()));
    for usage in usages.iter().take(MOST) {
        let Some(limit) = run.plan.edits.first().and_then(|edit| edit.limits.get(usage.counter.limit)) else {
            continue;
        };
        let mut sums = vec![(0u64, false); usize::try_from(WIDTH).unwrap_or(0)];
        for hit in &usage.hits {
            let sum = &mut sums[column(hit.answered)];
            // What `allow` lets pass without the store may be any number.
            *sum = (sum.0 + hit.hits.min(most(limit)), sum.1 || hit.degraded);
        }
        let highest = sums.iter().map(|sum| sum.0).max().unwrap_or(0).max(1);
        let bar = |hits: u64| BARS[usize::try_from((hits * 8).div_ceil(highest)).unwrap_or(8).min(8)];
        let whose = usage.counter.user.map_or_else(|| "all".to_owned(), |user| format!("user {user}"));
        // Writing to a text cannot fail.
        let _ = writeln!(out, "\n{} - {whose}, a full bar is {highest} in {} ms", describe(limit), column_us / 1000);
        let _ = writeln!(out, "admitted |{}|", sums.iter().map(|sum| bar(sum.0)).collect::<String>());
        let alone = |sum: &(u64, bool)| if sum.1 { '!' } else { ' ' };
        let _ = writeln!(out, "alone    |{}|", sums.iter().map(alone).collect::<String>());
    }
    for fault in &run.plan.faults {
        let (first, last) = (column(fault.begin), column(fault.end));
        let shade = |at: usize| if (first..=last).contains(&at) { '▒' } else { ' ' };
        let line: String = (0..usize::try_from(WIDTH).unwrap_or(0)).map(shade).collect();
        let _ = writeln!(out, "fault    |{line}| {}", fault.kind);
    }
    out
}
