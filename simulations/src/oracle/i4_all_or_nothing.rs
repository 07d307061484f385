//! I4: a check is charged to all of its limits or to none.
//!
//! The decision must agree with its limits. If no token may be lost, the allowed checks must use up a shared limit
//! exactly, however many checks another limit denied.

use super::violation::Violation;
use crate::history::{ClientCheck, History};
use crate::ids::RegionIndex;
use crate::scenario::{LimitSet, Plan, on_partition, quota};
use limiter::rules::Unmatched;

pub fn judge(plan: &Plan, history: &History, found: &mut Vec<Violation>) {
    for check in &history.checks {
        let (Some((at, _)), Some(decided)) = (&check.answer, check.decision()) else { continue };
        let edit = plan.edits.iter().find(|edit| edit.book.revision == decided.revision);
        let denies_unmatched = edit.is_some_and(|edit| edit.rules.unmatched == Unmatched::Deny);
        let denied = decided.limits.iter().any(|limit| limit.denied && !limit.shadow)
            || decided.limits.is_empty() && denies_unmatched;
        if decided.allowed == denied {
            let text = format!("allowed: {}, by limits {:?}", decided.allowed, decided.limits);
            found.push(Violation { promise: "I4", at: *at, text });
        }
    }
    for region in plan.regions.indices().filter(|region| plan.is_certain(*region)) {
        found.extend(unused_tokens(plan, history, region, LimitSet::SharedPair, 1, None).map(|text| Violation {
            promise: "I4",
            at: history.quiesced_at,
            text,
        }));
    }
}

/// After a drain, compares the hits that were allowed with the quota of a set's `nth` limit. Returns a description if
/// they differ.
pub fn unused_tokens(
    plan: &Plan,
    history: &History,
    region: RegionIndex,
    limit_set: LimitSet,
    nth: usize,
    user: Option<u32>,
) -> Option<String> {
    // What other regions admitted counts, too.
    if plan.limits_of(limit_set).any(|at| plan.limits().get(at).is_some_and(|limit| on_partition(limit).is_some())) {
        return None;
    }
    let limit = plan.final_limits().get(plan.limits_of(limit_set).nth(nth)?)?;
    let is_charged = |check: &&ClientCheck| {
        check.core.region == region
            && check.limit_set == limit_set
            && user.is_none_or(|user| check.user() == user)
            && check.is_allowed()
    };
    let checks = history.checks.iter().filter(is_charged);
    if checks.clone().any(|check| check.is_degraded()) {
        // What a core admitted without the store comes on top.
        return None;
    }
    let used: u64 = checks.map(ClientCheck::hits).sum();
    let quota = quota(limit);
    (used != quota).then(|| {
        let region = plan.regions.prefix(region);
        format!("{region}{used} hits of {} were allowed when it was used up, not {quota}", limit.name)
    })
}
