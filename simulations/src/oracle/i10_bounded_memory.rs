//! I10: the keys in memory and the waiting checks stay below their bounds, whatever keys arrive.

use super::violation::Violation;
use crate::history::History;
use crate::scenario::{MAX_WAITING, Plan};

pub fn judge(plan: &Plan, history: &History, found: &mut Vec<Violation>) {
    let bounds = [("keys", history.max_keys, plan.max_keys), ("waiting checks", history.max_waiting, MAX_WAITING)];
    for (what, most, bound) in bounds {
        if most > bound {
            let text = format!("{most} {what} at one core, at most {bound} are allowed");
            found.push(Violation { promise: "I10", at: history.quiesced_at, text });
        }
    }
}
