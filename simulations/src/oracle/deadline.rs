//! No check waits past its deadline, whatever the store does. If its node was paused or suspended, the deadline is at
//! least the end of the pause.

use super::violation::Violation;
use crate::faults::FaultKind;
use crate::history::{ClientCheck, History};
use crate::ids::{Instant, NodeIndex};
use crate::scenario::Plan;

pub fn judge(plan: &Plan, history: &History, found: &mut Vec<Violation>) {
    for check in &history.checks {
        let latest = latest_answer(plan, check);
        let at = match &check.answer {
            Some((at, _)) if *at <= latest => continue,
            Some((at, _)) => *at,
            // The run ends before an ordinary check of its last phase must have its answer.
            None if check.sent_at >= history.quiesced_at && !check.probe => continue,
            None => history.quiesced_at,
        };
        let after = at.saturating_sub(check.received_at);
        let limit = latest.saturating_sub(check.received_at);
        let what = if check.answer.is_some() { "answered" } else { "not answered" };
        let text = format!("core {}: {what} {after} us after the arrival, deadline {limit} us", check.core);
        found.push(Violation { promise: "deadline", at, text });
    }
}

/// Returns the latest time for the answer.
fn latest_answer(plan: &Plan, check: &ClientCheck) -> Instant {
    let mut latest = check.received_at + check.timeout_us;
    let node = NodeIndex(check.core.core.0 / plan.cores);
    let stop_kinds = [FaultKind::Pause { node }, FaultKind::Suspend { node }];
    for stop in plan.faults_of(check.core.region).filter(|fault| stop_kinds.contains(&fault.kind)) {
        if stop.begin <= latest && stop.end > check.sent_at {
            latest = latest.max(stop.end);
        }
    }
    latest
}
