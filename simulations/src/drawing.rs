//! A simulation as a picture for a terminal: how full the busiest counters were over time, up to their limit, and when
//! something was wrong.

use std::fmt::Write;

use super::gauge::{Level, levels, line};
use super::ledger::Counter;
use super::oracle::usages;
use super::plan::{Edit, describe};
use super::run::Run;
use limiter::rules::{Limit, Period};

/// Columns of the picture.
const WIDTH: u64 = 100;
/// Counters that are drawn at most.
const MOST: usize = 3;
const BARS: [char; 9] = [' ', '▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One of the busiest counters.
pub struct Drawn<'a> {
    pub counter: Counter,
    /// As it was at first.
    pub limit: &'a Limit,
    /// From an instant on so many hits may count.
    pub edits: Vec<(u64, u64)>,
    pub levels: Vec<Level>,
}

impl Drawn<'_> {
    pub fn title(&self) -> String {
        let whose = self.counter.user.map_or_else(|| "all".to_owned(), |user| format!("user {user}"));
        format!("{} - {whose}", describe(self.limit))
    }
}

/// The counters that were asked for most.
pub fn busiest(run: &Run) -> Vec<Drawn<'_>> {
    let mut usages = usages(&run.plan, &run.ledger);
    usages.sort_by_key(|usage| std::cmp::Reverse(usage.hits.len()));
    let drawn = usages.into_iter().take(MOST).filter_map(|usage| {
        let limit = run.plan.edits.first()?.limits.get(usage.counter.limit)?;
        let Period::Window { ms } = limit.period else { return None };
        let edit = |edit: &Edit| Some((edit.at, line(edit.limits.get(usage.counter.limit)?)));
        let edits = run.plan.edits.iter().filter_map(edit).collect();
        Some(Drawn { counter: usage.counter, limit, edits, levels: levels(limit.algorithm, ms * 1000, &usage.hits) })
    });
    drawn.collect()
}

/// When the last check was answered.
pub fn end(run: &Run) -> u64 {
    run.ledger.asked.iter().filter_map(|asked| asked.answer.as_ref().map(|(at, _)| *at)).max().unwrap_or(0)
}

/// Draws the busiest counters: a column is a hundredth of the time, a full bar is the limit (the largest of them, where
/// edits change it), and `▲` more than that.
pub fn draw(run: &Run) -> String {
    let mut out = String::new();
    let column_us = end(run) / WIDTH + 1;
    let column = |at: u64| usize::try_from((at / column_us).min(WIDTH - 1)).unwrap_or(0);
    let width = usize::try_from(WIDTH).unwrap_or(0);
    for drawn in busiest(run) {
        // The highest level of each column, which begins with the last of the one before.
        let (mut columns, mut last, mut at) = (vec![(0, 0); width], (0, 0), 0);
        for level in &drawn.levels {
            for passed in &mut columns[at..column(level.at)] {
                *passed = (*passed).max(last);
            }
            at = column(level.at);
            columns[at] = columns[at].max(last).max((level.hits, level.alone));
            last = (level.hits, level.alone);
        }
        columns[at..].iter_mut().for_each(|rest| *rest = (*rest).max(last));
        let full = drawn.edits.iter().map(|(_, limit)| *limit).max().unwrap_or(0).max(1);
        let bar = |(hits, _): &(u64, u64)| match usize::try_from((hits * 8).div_ceil(full)) {
            Ok(eighths @ 0..=8) => BARS[eighths],
            _ => '▲',
        };
        let alone = |(_, alone): &(u64, u64)| if *alone > 0 { '!' } else { ' ' };
        // Writing to a text cannot fail.
        let _ = writeln!(out, "\n{}", drawn.title());
        let _ =
            writeln!(out, "used     |{}| a full bar is {full}, ▲ more", columns.iter().map(bar).collect::<String>());
        let _ = writeln!(
            out,
            "alone    |{}| ! some of it without the store",
            columns.iter().map(alone).collect::<String>()
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
