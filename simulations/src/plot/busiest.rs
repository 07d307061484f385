//! The counters that a picture shows.

use std::collections::BTreeMap;

use super::usage_levels::{Level, allowed_level, levels};
use crate::history::RightsLeft;
use crate::ids::{Counter, Instant, RegionIndex};
use crate::oracle::{AdmittedHits, Usage, usages};
use crate::run::Run;
use crate::scenario::{Edit, describe, is_escrow, is_global, quota};
use limiter::counter::MAX_LOGGED_LIMIT;
use limiter::rules::Limit;

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
    /// The levels of each region, if regions share the counter.
    pub by_region: Vec<(RegionIndex, Vec<Level>)>,
    /// The rights that each region had left, under escrow.
    pub rights: Vec<(RegionIndex, Vec<Level>)>,
    /// When each region was asked while another one did not hear it, if regions share the counter.
    pub partitioned: Vec<(RegionIndex, Vec<Instant>)>,
}

/// Returns the highest level.
pub fn highest(levels: &[Level]) -> u64 {
    levels.iter().map(|level| level.hits).max().unwrap_or(0)
}

/// Returns the counters with the most admitted checks. The counters of a limit that regions share are one.
pub fn busiest(run: &Run) -> Vec<BusyCounter<'_>> {
    let plan = &run.plan;
    let is_shared = |limit: usize| plan.regions.count() > 1 && plan.limits().get(limit).is_some_and(is_global);
    let mut groups: BTreeMap<Counter, Vec<Usage>> = BTreeMap::new();
    for usage in usages(plan, &run.history) {
        let counter = usage.counter;
        let group = if is_shared(counter.limit) { counter.in_region(RegionIndex::default()) } else { counter };
        groups.entry(group).or_default().push(usage);
    }
    let mut groups: Vec<Vec<Usage>> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.iter().map(|usage| usage.hits.len()).sum::<usize>()));
    groups.iter().take(MAX_COUNTERS).filter_map(|group| busy_counter(run, group, is_shared)).collect()
}

/// Returns a counter, from its usage in each region.
fn busy_counter<'a>(run: &'a Run, usages: &[Usage], is_shared: impl Fn(usize) -> bool) -> Option<BusyCounter<'a>> {
    let counter = usages.first()?.counter;
    let limit = run.plan.terms_of(counter).next()?;
    let window_us = run.plan.window_us(limit)?;
    let version = |edit: &Edit| Some((edit.at, allowed_level(edit.rules.terms_of(&counter)?)));
    let levels = |hits: &[AdmittedHits]| levels(limit.algorithm, quota(limit) <= MAX_LOGGED_LIMIT, window_us, hits);
    let all: Vec<AdmittedHits> = usages.iter().flat_map(|usage| usage.hits.iter().copied()).collect();
    let is_shared = is_shared(counter.limit);
    let by_region = usages.iter().filter(|_| is_shared).map(|usage| (usage.counter.region, levels(&usage.hits)));
    let by_region: Vec<_> = by_region.collect();
    let partitioned = by_region.iter().map(|(region, _)| (*region, partitioned(run, counter.limit, *region)));
    let owner = if is_shared { counter.owner() } else { run.plan.owner(&counter) };
    Some(BusyCounter {
        title: format!("{} - {owner}", describe(limit)),
        limit,
        allowed: run.plan.edits.iter().filter_map(version).collect(),
        levels: levels(&all),
        rights: rights(run, counter).into_iter().filter(|_| is_escrow(limit)).collect(),
        partitioned: partitioned.filter(|(_, at)| !at.is_empty()).collect(),
        by_region,
    })
}

/// Returns the rights of each region, as its store said when it was asked.
fn rights(run: &Run, counter: Counter) -> Vec<(RegionIndex, Vec<Level>)> {
    let of = |region| run.history.rights_left.get(&counter.in_region(region));
    let level = |left: &RightsLeft| Level { at: left.at, hits: left.rights, degraded: 0 };
    let regions = run.plan.regions.indices();
    regions.filter_map(|region| Some((region, of(region)?.iter().map(level).collect()))).collect()
}

/// Returns when a limit was decided in a region as its `on_partition` says.
fn partitioned(run: &Run, limit: usize, region: RegionIndex) -> Vec<Instant> {
    let checks = run.history.checks.iter().filter(|check| check.core.region == region);
    let answers = checks.filter_map(|check| Some((check.answer.as_ref()?.0, check.decision()?)));
    let of_limit = answers.filter(|(_, decided)| decided.limits.iter().any(|decision| decision.limit == limit));
    of_limit.filter(|(_, decided)| decided.partitioned).map(|(at, _)| at).collect()
}

/// Returns the time of the last answer.
pub fn end(run: &Run) -> Instant {
    run.history.checks.iter().filter_map(|check| check.answer.as_ref().map(|(at, _)| *at)).max().unwrap_or(0)
}
