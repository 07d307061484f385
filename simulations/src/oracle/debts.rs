//! What cores admitted by themselves (`on_store_failure: local`) is charged once the store is back: whoever then uses up what is
//! left gets no more than the limit in all.

use super::Violation;
use super::allowance::hits;
use crate::faults::Kind;
use crate::ledger::{Asked, Ledger};
use crate::plan::{Family, Plan};
use crate::run::DRAINED;
use crate::scenario::Scenario;
use crate::world::counter;
use limiter::rules::OnStoreFailure;

pub fn judge(plan: &Plan, ledger: &Ledger, found: &mut Vec<Violation>) {
    let limits = plan.edits.last().map(|edit| edit.limits.as_slice()).unwrap_or_default();
    let solo = plan.limits_of(Family::Solo).next().and_then(|at| Some((at, limits.get(at)?)));
    let Some((at, limit)) = solo.filter(|(_, limit)| limit.on_store_failure == OnStoreFailure::Local) else { return };
    if loses_debts(plan) {
        return;
    }
    let remembered = |user: &u32| !ledger.forgot.contains_key(&counter(plan, at, *user));
    for user in (0..plan.users.min(DRAINED)).filter(remembered) {
        let mine = |asked: &&Asked| asked.family == Family::Solo && asked.user == user && asked.is_allowed();
        let (before, drain) = ledger.asked.split_at(ledger.drained_from.min(ledger.asked.len()));
        let sum = |asked: &[Asked]| asked.iter().filter(mine).map(|asked| u64::from(asked.hits)).sum::<u64>();
        let (before, more) = (sum(before), sum(drain));
        if more > 0 && before + more > hits(limit) {
            let text =
                format!("user {user} was allowed {before}, and {more} when the store was back, of {}", hits(limit));
            found.push(Violation { promise: "debts", at: ledger.rested, text });
        }
    }
}

/// Whether debts may be lost: with the core that owes them, or with a key that it had no room for; or a clock was set, so
/// that a debt is of another time.
fn loses_debts(plan: &Plan) -> bool {
    let lost = |kind: &Kind| matches!(kind, Kind::Crash { .. } | Kind::Leap { .. });
    plan.scenario == Scenario::Memory || plan.faults.iter().any(|fault| lost(&fault.kind))
}
