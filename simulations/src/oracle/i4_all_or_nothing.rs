//! I4: a check is charged everywhere or nowhere. An answer says so; and where not a token may have been lost, what all
//! users share is used up by exactly what was allowed, however many another limit refused.

use super::Violation;
use super::allowance::hits;
use crate::ledger::{Ledger, Said};
use crate::plan::{Family, Plan};

pub fn judge(plan: &Plan, ledger: &Ledger, found: &mut Vec<Violation>) {
    for asked in &ledger.asked {
        let Some((at, Said::Decided(decided))) = &asked.answer else { continue };
        let refused = decided.limits.iter().any(|limit| limit.refused);
        let all = decided.limits.len() == plan.limits_of(asked.family).count();
        if decided.allowed == refused || !all {
            let text = format!("allowed: {}, by limits {:?}", decided.allowed, decided.limits);
            found.push(Violation { promise: "I4", at: *at, text });
        }
    }
    if plan.is_certain() {
        found.extend(all_is_used(plan, ledger, Family::Pair, 1, None).map(|text| Violation {
            promise: "I4",
            at: ledger.rested,
            text,
        }));
    }
}

/// After a drain: what was allowed of a family's `nth` limit is all of it.
pub fn all_is_used(plan: &Plan, ledger: &Ledger, family: Family, nth: usize, user: Option<u32>) -> Option<String> {
    let limit = plan.edits.last()?.limits.get(plan.limits_of(family).nth(nth)?)?;
    let of = ledger.asked.iter().filter(|asked| asked.family == family && user.is_none_or(|user| asked.user == user));
    if of.clone().any(|asked| asked.is_allowed() && asked.is_degraded()) {
        // What a core admitted by itself comes on top.
        return None;
    }
    let used: u64 = of.filter(|asked| asked.is_allowed()).map(|asked| u64::from(asked.hits)).sum();
    let whole = hits(limit);
    (used != whole).then(|| format!("{used} were allowed by {} when it was used up, not {whole}", limit.name))
}
