//! A denial by an `exact` limit was true: the check did not fit, even if every charge that may have been in progress
//! counts.

use std::collections::BTreeMap;

use super::charges::PossibleCharge;
use super::violation::Violation;
use crate::faults::FaultKind;
use crate::history::{ClientCheck, History};
use crate::ids::{Counter, Instant};
use crate::scenario::{Plan, capacity, horizon_us, is_escrow, on_partition, quota};
use limiter::rules::{Algorithm, Consistency, Limit, OnPartition, Period};

/// Windows end up to this much later than they must, because widths and weights are rounded up. In microseconds.
const ROUNDING_US: u64 = 20_000;

pub fn judge(plan: &Plan, history: &History, found: &mut Vec<Violation>) {
    // A batch that arrives twice is charged twice, and a clock that is set may keep a window for longer.
    let is_out_of_scope = |kind: &FaultKind| matches!(kind, FaultKind::ClockJump { .. } | FaultKind::Repeat { .. });
    // A core that asks two servers in turn brings to each what the other one charged to a bucket, and each adds it.
    let is_replaced = |kind: &FaultKind| matches!(kind, FaultKind::Split { .. } | FaultKind::Replacement { .. });
    for (counter, charges) in possible_charges(plan, history) {
        let limit = plan.limits().get(counter.limit);
        let regions = plan
            .regions
            .indices()
            .filter(|region| *region == counter.region || limit.is_some_and(|limit| on_partition(limit).is_some()));
        let mut faults = regions.flat_map(|region| plan.faults_of(region));
        let is_bucket = limit.is_some_and(|limit| limit.algorithm == Algorithm::TokenBucket);
        if faults.any(|fault| is_out_of_scope(&fault.kind) || is_bucket && is_replaced(&fault.kind))
            || plan.terms_of(counter).any(|limit| may_be_partitioned(plan, limit))
        {
            continue;
        }
        for (index, denied) in charges.iter().enumerate() {
            let check = denied.check;
            if check.core.region != counter.region {
                continue;
            }
            let (Some((at, _)), Some(limit)) = (&check.answer, denied.denied_by) else { continue };
            let hits = denied.asked;
            if check.is_degraded() || hits > capacity(limit) {
                continue;
            }
            let others = charges.iter().enumerate().filter(|(other, _)| *other != index).map(|(_, other)| other);
            let charged = max_charged(plan, limit, others, check, *at);
            if charged.saturating_add(hits.max(1)) <= capacity(limit) {
                let text = format!(
                    "{} denied {hits} hits of {}, but at most {charged} of {} can have been charged",
                    limit.name,
                    plan.owner(&counter),
                    capacity(limit)
                );
                found.push(Violation { promise: "denial", at: *at, text });
            }
        }
    }
}

/// True if a region may deny because another one does not hear it. Every fault may prevent that for a while.
fn may_be_partitioned(plan: &Plan, limit: &Limit) -> bool {
    matches!(on_partition(limit), Some(OnPartition::Share | OnPartition::Deny)) && !plan.faults.is_empty()
}

/// Returns what each check may have charged, for the counters whose denials are judged.
fn possible_charges<'a>(plan: &'a Plan, history: &'a History) -> BTreeMap<Counter, Vec<PossibleCharge<'a>>> {
    let is_judged = |limit: usize| {
        plan.versions(limit).all(|limit| match limit.algorithm {
            // If the rate of a bucket changed, the bucket counts charges that were made at another rate.
            Algorithm::TokenBucket => plan.edits.len() == 1,
            // Under escrow, another region may have the rights.
            _ => limit.consistency == Some(Consistency::Exact) && !is_escrow(limit),
        })
    };
    let mut all: BTreeMap<Counter, Vec<PossibleCharge<'_>>> = BTreeMap::new();
    for check in &history.checks {
        for (counter, charge) in PossibleCharge::all(plan, history, check) {
            if !is_judged(counter.limit) {
                continue;
            }
            let is_shared = plan.limits().get(counter.limit).is_some_and(|limit| on_partition(limit).is_some());
            for region in plan.regions.indices().filter(|region| is_shared || *region == check.core.region) {
                all.entry(counter.in_region(region)).or_default().push(charge.clone());
            }
        }
    }
    all
}

/// Returns the largest number of hits that can have been charged when a check was denied at `at`, or shortly before: a
/// core remembers a denial for a lease.
fn max_charged<'a>(
    plan: &Plan,
    limit: &Limit,
    others: impl Iterator<Item = &'a PossibleCharge<'a>>,
    denied: &ClientCheck,
    at: Instant,
) -> u64 {
    let earliest_denial = denied.sent_at.saturating_sub(plan.lease_us);
    let others = others.filter(|other| other.check.sent_at <= at);
    if limit.algorithm == Algorithm::TokenBucket {
        return max_missing(plan, limit, others, earliest_denial);
    }
    let horizon_us = horizon_us(limit).saturating_add(ROUNDING_US + plan.clock_spread_us());
    let since = earliest_denial.saturating_sub(horizon_us);
    let counts = |other: &&PossibleCharge<'_>| other.counts_from.saturating_add(2 * plan.deadline_us) >= since;
    // Another region hears later that hits have returned.
    let at =
        |other: &PossibleCharge<'_>| if other.check.core.region == denied.core.region { earliest_denial } else { 0 };
    others.filter(counts).map(|other| other.kept + other.temporary(at(other))).sum()
}

/// Returns the largest number of tokens that a bucket can have lacked at the earliest time of a denial. Each hit counts
/// as charged as late as possible before that time, and all later charges count too.
fn max_missing<'a>(
    plan: &Plan,
    limit: &Limit,
    others: impl Iterator<Item = &'a PossibleCharge<'a>>,
    earliest_denial: Instant,
) -> u64 {
    let Period::Window { ms } = limit.period else { return u64::MAX };
    let (rate, window_us) = (quota(limit), ms * 1000);
    let mut charges: Vec<(Instant, u64)> = Vec::new();
    for other in others {
        // When another limit denies a check, the bucket gets its hits back, less those that its refill has absorbed.
        let absorbed = other.absorbed(plan, rate, window_us);
        charges.push((other.end.min(earliest_denial), other.kept + absorbed));
        // The time of these charges is unknown. A fraction of a hit that a core owes counts as a whole hit.
        let owed = u64::from(other.check.is_degraded());
        charges.push((earliest_denial, other.temporary(earliest_denial) + owed));
    }
    charges.sort_unstable();
    // In parts of a hit: a hit is `window_us` parts, and `rate` parts refill in a microsecond.
    let hit = u128::from(window_us);
    let (mut missing, mut last) = (0u128, 0);
    for (when, hits) in charges {
        missing = missing.saturating_sub(u128::from(when - last) * u128::from(rate)) + u128::from(hits) * hit;
        last = when;
    }
    u64::try_from(missing.div_ceil(hit)).unwrap_or(u64::MAX)
}
