//! The limits that apply to a check, as its rules mean.

use crate::history::ClientCheck;
use crate::scenario::{Applied, Plan};
use limiter::Revision;

/// Returns the limits that apply to a check under the rules of a revision.
pub fn applied_by<'p>(plan: &'p Plan, check: &ClientCheck, revision: Revision) -> Vec<Applied<'p>> {
    let edit = plan.edits.iter().find(|edit| edit.book.revision == revision);
    edit.map(|edit| edit.rules.applied(check.core.region, check.limit_set, &check.asked)).unwrap_or_default()
}
