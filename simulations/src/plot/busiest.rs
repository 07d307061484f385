//! The counters that a picture shows.

use super::usage_levels::{Level, allowed_level, levels};
use crate::ids::Instant;
use crate::oracle::usages;
use crate::run::Run;
use crate::scenario::{Edit, describe, quota};
use limiter::counter::MAX_LOGGED_LIMIT;
use limiter::rules::{Limit, Period};

/// The largest number of counters in a picture.
const MAX_COUNTERS: usize = 3;

/// One of the busiest counters.
pub struct BusyCounter<'a> {
    pub title: String,
    /// The first version of the counter's limit.
    pub limit: &'a Limit,
    /// From each instant on, the largest level that the rules allow.
    pub allowed: Vec<(Instant, u64)>,
    pub levels: Vec<Level>,
}

/// Returns the counters with the most admitted checks.
pub fn busiest(run: &Run) -> Vec<BusyCounter<'_>> {
    let mut usages = usages(&run.plan, &run.history);
    usages.sort_by_key(|usage| std::cmp::Reverse(usage.hits.len()));
    let drawn = usages.into_iter().take(MAX_COUNTERS).filter_map(|usage| {
        let limit = run.plan.limits().get(usage.counter.limit)?;
        let Period::Window { ms } = limit.period else { return None };
        let version = |edit: &Edit| Some((edit.at, allowed_level(edit.limits.get(usage.counter.limit)?)));
        let allowed = run.plan.edits.iter().filter_map(version).collect();
        Some(BusyCounter {
            title: format!("{} - {}", describe(limit), run.plan.owner(&usage.counter)),
            limit,
            allowed,
            levels: levels(limit.algorithm, quota(limit) <= MAX_LOGGED_LIMIT, ms * 1000, &usage.hits),
        })
    });
    drawn.collect()
}

/// Returns the time of the last answer.
pub fn end(run: &Run) -> Instant {
    run.history.checks.iter().filter_map(|check| check.answer.as_ref().map(|(at, _)| *at)).max().unwrap_or(0)
}
