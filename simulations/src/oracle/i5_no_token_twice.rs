//! I5: no token is both returned and spent, and none is lost where none may be: each is spent exactly once.

use super::Violation;
use super::i4_all_or_nothing::all_is_used;
use crate::ledger::Ledger;
use crate::plan::{Family, Plan};
use crate::run::DRAINED;

pub fn judge(plan: &Plan, ledger: &Ledger, found: &mut Vec<Violation>) {
    if !plan.is_certain() {
        return;
    }
    for user in 0..plan.users.min(DRAINED) {
        found.extend(all_is_used(plan, ledger, Family::Solo, 0, Some(user)).map(|text| Violation {
            promise: "I5",
            at: ledger.rested,
            text: format!("user {user}: {text}"),
        }));
    }
}
