//! The rules: an answer names the limits that apply to its check as the rules mean, in their order, and says which of
//! them only report. Each one states its limit after overrides.

use super::applied::applied_by;
use super::violation::Violation;
use crate::history::{ClientCheck, Decided, History};
use crate::scenario::{Plan, stated_limit};
use limiter::rules::Mode;

/// What an answer says of a limit: its name, the position of the descriptor, the limit, and whether it only reports.
type Said<'a> = (&'a str, usize, Option<u64>, bool);

pub fn judge(plan: &Plan, history: &History, found: &mut Vec<Violation>) {
    for check in &history.checks {
        let (Some((at, _)), Some(decided)) = (&check.answer, check.decision()) else { continue };
        let (said, expected) = (said(plan, decided), expected(plan, check, decided));
        if said != expected {
            let asked: Vec<String> = check.asked.iter().map(ToString::to_string).collect();
            let text = format!("{}: the answer names {said:?}, not {expected:?}", asked.join(", "));
            found.push(Violation { promise: "rules", at: *at, text });
        }
    }
}

fn said<'a>(plan: &'a Plan, decided: &Decided) -> Vec<Said<'a>> {
    let limits = plan.limits();
    let name = |limit: usize| limits.get(limit).map_or("?", |limit| limit.name.as_str());
    decided.limits.iter().map(|it| (name(it.limit), it.descriptor, it.quota, it.shadow)).collect()
}

fn expected<'a>(plan: &'a Plan, check: &ClientCheck, decided: &Decided) -> Vec<Said<'a>> {
    let applied = applied_by(plan, check, decided.revision);
    let said = applied
        .iter()
        .map(|it| (it.terms.name.as_str(), it.descriptor, stated_limit(it.terms), it.terms.mode == Mode::Shadow));
    said.collect()
}
