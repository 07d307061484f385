//! No check waits past its deadline, whatever the store does; where its core was stopped, not past that.

use super::Violation;
use crate::faults::{Instant, Kind};
use crate::ledger::{Asked, Ledger};
use crate::plan::Plan;

pub fn judge(plan: &Plan, ledger: &Ledger, found: &mut Vec<Violation>) {
    for asked in &ledger.asked {
        let last = latest(plan, asked);
        let at = match &asked.answer {
            Some((at, _)) if *at <= last => continue,
            Some((at, _)) => *at,
            None if asked.at >= ledger.rested && !asked.probe => continue,
            None => ledger.rested,
        };
        let waited = at.saturating_sub(asked.at);
        let what = if asked.answer.is_some() { "answered" } else { "not answered" };
        let text = format!("core {}: {what} after {waited} us, at most {}", asked.holder, asked.within_us);
        found.push(Violation { promise: "deadline", at, text });
    }
}

/// When it must have its answer.
fn latest(plan: &Plan, asked: &Asked) -> Instant {
    let mut last = asked.came + asked.within_us;
    let node = asked.holder / plan.cores;
    let stands = [Kind::Pause { node }, Kind::Suspend { node }];
    let stops = plan.faults.iter().filter(|fault| stands.contains(&fault.kind));
    for stop in stops {
        if stop.begin <= last && stop.end > asked.at {
            last = last.max(stop.end);
        }
    }
    last
}
