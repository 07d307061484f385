//! I10: keys in memory and checks that wait stay under their bounds, whatever keys arrive.

use super::Violation;
use crate::ledger::Ledger;
use crate::node::MAX_WAITING;
use crate::plan::Plan;

pub fn judge(plan: &Plan, ledger: &Ledger, found: &mut Vec<Violation>) {
    let bounds = [("keys", ledger.most_keys, plan.max_keys), ("checks that wait", ledger.most_waiting, MAX_WAITING)];
    for (what, most, bound) in bounds {
        if most > bound {
            let text = format!("{most} {what} at one core, at most {bound}");
            found.push(Violation { promise: "I10", at: ledger.rested, text });
        }
    }
}
