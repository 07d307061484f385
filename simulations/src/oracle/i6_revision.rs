//! I6: a check is decided under the rules that its core had when it came, and under no others.

use super::applied::applied_by;
use super::violation::Violation;
use crate::history::{ClientCheck, History};
use crate::scenario::{Applied, Plan, stated_limit};
use limiter::Revision;

pub fn judge(plan: &Plan, history: &History, found: &mut Vec<Violation>) {
    for check in &history.checks {
        let (Some((at, _)), Some(decided)) = (&check.answer, check.decision()) else { continue };
        let mut broken = |text| found.push(Violation { promise: "I6", at: *at, text });
        let (oldest, newest) = possible_revisions(history, check);
        if !(oldest..=newest).contains(&decided.revision) {
            broken(format!("core {} decided under revision {}, but had {oldest}", check.core, decided.revision));
            continue;
        }
        let applied = applied_by(plan, check, decided.revision);
        for decision in &decided.limits {
            let is_same = |it: &&Applied<'_>| (it.limit, it.descriptor) == (decision.limit, decision.descriptor);
            let granted = applied.iter().find(is_same).and_then(|it| stated_limit(it.terms));
            if decision.quota != granted {
                let (revision, stated) = (decided.revision, decision.quota);
                broken(format!("revision {revision} grants {granted:?}, the answer states {stated:?}"));
            }
        }
    }
}

/// Returns the oldest and the newest revision that the core may have had when the check came. They differ if new rules
/// came at the same instant.
fn possible_revisions(history: &History, check: &ClientCheck) -> (Revision, Revision) {
    let received = history.rules_received.iter().filter(|it| (it.core, it.boot) == (check.core, check.boot));
    let before = received.clone().filter(|it| it.at < check.received_at).map(|it| it.revision).max();
    let until = received.filter(|it| it.at <= check.received_at).map(|it| it.revision).max();
    (before.or(until).unwrap_or_default(), until.unwrap_or_default())
}
