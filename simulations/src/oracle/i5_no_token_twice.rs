//! I5: no token is both returned and spent. If no token may be lost, each is spent exactly once.

use super::i4_all_or_nothing::unused_tokens;
use super::violation::Violation;
use crate::history::History;
use crate::scenario::{DRAINED_USERS, LimitSet, Plan};

pub fn judge(plan: &Plan, history: &History, found: &mut Vec<Violation>) {
    for region in plan.regions.indices().filter(|region| plan.is_certain(*region)) {
        for user in 0..plan.users.min(DRAINED_USERS) {
            found.extend(unused_tokens(plan, history, region, LimitSet::PerUser, 0, Some(user)).map(|text| {
                Violation { promise: "I5", at: history.quiesced_at, text: format!("user {user}: {text}") }
            }));
        }
    }
}
