//! Hits that cores admitted without the store (`on_store_failure: local`) are charged when the store is back. A user
//! that then uses up the rest of a limit gets no more than the limit in total.

use super::violation::Violation;
use crate::faults::FaultKind;
use crate::history::{ClientCheck, History};
use crate::ids::RegionIndex;
use crate::scenario::{DRAINED_USERS, LimitSet, Plan, Scenario, quota};
use limiter::rules::OnStoreFailure;

pub fn judge(plan: &Plan, history: &History, found: &mut Vec<Violation>) {
    let limit = plan.limits_of(LimitSet::PerUser).next().and_then(|at| Some((at, plan.final_limits().get(at)?)));
    let Some((at, limit)) = limit.filter(|(_, limit)| limit.on_store_failure == OnStoreFailure::Local) else { return };
    let users = 0..plan.users.min(DRAINED_USERS);
    let counters = plan.regions.indices().flat_map(|region| users.clone().map(move |user| (region, user)));
    for (region, user) in counters {
        if may_lose_debts(plan, region) || history.forgotten.contains_key(&plan.counter(region, at, user)) {
            continue;
        }
        let is_charged = |check: &&ClientCheck| {
            let is_same = (check.core.region, check.limit_set, check.user()) == (region, LimitSet::PerUser, user);
            is_same && check.is_allowed()
        };
        let (before, drain) = history.checks.split_at(history.drain_start.min(history.checks.len()));
        let sum = |checks: &[ClientCheck]| checks.iter().filter(is_charged).map(ClientCheck::hits).sum();
        let (before, drained): (u64, u64) = (sum(before), sum(drain));
        let quota = quota(limit);
        if drained > 0 && before + drained > quota {
            let region = plan.regions.prefix(region);
            let text =
                format!("{region}user {user} was allowed {before} hits, and {drained} with the store back, of {quota}");
            found.push(Violation { promise: "debts", at: history.quiesced_at, text });
        }
    }
}

/// True if debts may be lost: a core dies that has them, a core drops their key to make room, or a clock is set, so
/// that a debt belongs to another time.
fn may_lose_debts(plan: &Plan, region: RegionIndex) -> bool {
    let loses = |kind: &FaultKind| {
        matches!(kind, FaultKind::Crash { .. } | FaultKind::RegionDies { .. } | FaultKind::ClockJump { .. })
    };
    plan.scenario == Scenario::Memory || plan.faults_of(region).any(|fault| loses(&fault.kind))
}
