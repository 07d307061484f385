//! The text of rules in the description of a plan.

use std::fmt;

use super::draw_books::{OVERRIDE_TESTS, override_test};
use super::limit_math::describe;
use super::limit_set::LimitSet;
use super::meaning::{DomainRules, has_own_counter};
use limiter::rules::{Charge, Condition, Match, Unmatched};

impl fmt::Display for DomainRules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.charge == Charge::Each {
            writeln!(f, "           every descriptor is charged separately")?;
        }
        if self.unmatched == Unmatched::Deny {
            writeln!(f, "           a check that no limit matches is denied")?;
        }
        for (index, limit) in self.limits.iter().enumerate() {
            let (matches, replaces) = (text(&limit.matches), limit.replaces.join(", "));
            let matches = if matches.is_empty() { matches } else { format!(" for {matches}") };
            let replaces = if replaces.is_empty() { replaces } else { format!(", replaces {replaces}") };
            writeln!(f, "           {}{matches}{replaces}", describe(limit))?;
            for (change, terms) in limit.overrides.iter().zip(self.changed(index)) {
                let test = override_text(override_test(&change.matches));
                let counter =
                    if has_own_counter(change, limit) { "with its own counter" } else { "in the same counter" };
                writeln!(f, "             override for {test}, {counter}: {}", describe(terms))?;
            }
        }
        Ok(())
    }
}

/// Returns what an override tests, by its number.
pub fn override_text(test: usize) -> String {
    let text = OVERRIDE_TESTS.get(test).map(text).unwrap_or_default();
    if text.is_empty() { "all".to_owned() } else { text }
}

/// Returns the conditions of a match, without the one that selects the limit set.
fn text(matches: &Match) -> String {
    let is_set = |condition: &Condition| match condition {
        Condition::Equal(kind) => kind == LimitSet::Short.name(),
        Condition::AnyOf(_) => true,
        _ => false,
    };
    let others = matches.conditions.iter().filter(|(name, condition)| *name != "kind" || !is_set(condition));
    others.map(|(name, condition)| format!("{name} {}", condition_text(condition))).collect::<Vec<_>>().join(" and ")
}

fn condition_text(condition: &Condition) -> String {
    match condition {
        Condition::Equal(value) => value.clone(),
        Condition::AnyOf(values) => values.join(" or "),
        Condition::Present(true) => "present".to_owned(),
        Condition::Present(false) => "absent".to_owned(),
        Condition::Not(condition) => format!("not {}", condition_text(condition)),
        other => format!("{other:?}"),
    }
}
