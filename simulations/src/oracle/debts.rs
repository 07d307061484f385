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
    if may_lose_debts(plan) {
        return;
    }
    let is_remembered = |user: &u32| !history.forgotten.contains_key(&plan.counter(RegionIndex::ONLY, at, *user));
    for user in (0..plan.users.min(DRAINED_USERS)).filter(is_remembered) {
        let is_charged =
            |check: &&ClientCheck| check.limit_set == LimitSet::PerUser && check.user == user && check.is_allowed();
        let (before, drain) = history.checks.split_at(history.drain_start.min(history.checks.len()));
        let sum = |checks: &[ClientCheck]| checks.iter().filter(is_charged).map(|check| u64::from(check.hits)).sum();
        let (before, drained): (u64, u64) = (sum(before), sum(drain));
        let quota = quota(limit);
        if drained > 0 && before + drained > quota {
            let text = format!("user {user} was allowed {before} hits, and {drained} with the store back, of {quota}");
            found.push(Violation { promise: "debts", at: history.quiesced_at, text });
        }
    }
}

/// True if debts may be lost: a core dies that has them, a core drops their key to make room, or a clock is set, so
/// that a debt belongs to another time.
fn may_lose_debts(plan: &Plan) -> bool {
    let loses = |kind: &FaultKind| matches!(kind, FaultKind::Crash { .. } | FaultKind::ClockJump { .. });
    plan.scenario == Scenario::Memory || plan.faults.iter().any(|fault| loses(&fault.kind))
}
