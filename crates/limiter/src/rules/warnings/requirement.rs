//! What must hold of a descriptor for a limit, or for one of its overrides, to apply.

use std::collections::HashMap;
use std::rc::Rc;

use super::logic::{exclude_each_other, excludes_values, holds, implies, needs_presence, values};
use crate::rules::attribute::Attribute;
use crate::rules::matcher::{Expression, Fact, Facts};
use crate::rules::path::Path;
use crate::rules::rule::{Condition, Limit, Match};

/// The most overrides that a later one is compared with, for each value that both have, and without one.
const MAX_COMPARED: usize = 100;

/// A place in a limit or an override: the field, and what is below it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    field: &'static str,
    name: Option<String>,
    index: Option<usize>,
}

impl Place {
    const fn field(field: &'static str) -> Self {
        Self { field, name: None, index: None }
    }

    /// The place below the path of its limit or override.
    pub fn below(&self, path: &Path) -> Path {
        let path = path.field(self.field);
        let path = self.name.as_ref().map_or(path.clone(), |name| path.field(name));
        self.index.map_or(path.clone(), |index| path.index(index))
    }
}

/// Everything that must hold together.
#[derive(Clone, Debug)]
pub struct Requirement<'r> {
    pub domain: &'r str,
    /// Those of a limit, then those of its override.
    parts: Vec<&'r Match>,
    conditions: Vec<(Attribute, &'r Condition)>,
    /// The attributes of `per`.
    per: Vec<Attribute>,
    exact_keys: Option<Vec<Attribute>>,
    whens: Vec<(&'r str, Rc<Expression>)>,
}

impl<'r> Requirement<'r> {
    pub fn of_limit(limit: &'r Limit, domain: &'r str) -> Self {
        let per = limit.per.iter().map(|per| Attribute::parse(&per.attribute)).collect();
        Self { per, ..Self::nothing(domain) }.with(&limit.matches)
    }

    /// What an override needs by itself.
    pub fn of_override(matches: &'r Match, domain: &'r str) -> Self {
        Self::nothing(domain).with(matches)
    }

    fn nothing(domain: &'r str) -> Self {
        let (parts, conditions, per, whens) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { domain, parts, conditions, per, exact_keys: None, whens }
    }

    /// This and `matches`.
    pub fn with(&self, matches: &'r Match) -> Self {
        let mut both = self.clone();
        both.conditions.extend(matches.conditions.iter().map(|(name, c)| (Attribute::parse(name), c)));
        let keys = matches.exact_keys.as_ref().map(|keys| Attribute::in_order(keys.iter().map(String::as_str)));
        both.exact_keys = both.exact_keys.or(keys);
        if let Some((text, Ok(when))) = matches.when.as_deref().map(|text| (text, Expression::compile(text))) {
            both.whens.push((text, Rc::new(when)));
        }
        both.parts.push(matches);
        both
    }

    /// Why the last part never holds together with the others and with itself, with the place in that part.
    pub fn contradictions(&self) -> Vec<(Place, String)> {
        let mut found = Vec::new();
        let Some((last, before)) = self.parts.split_last() else { return found };
        if let Some(keys) = &last.exact_keys
            && before.iter().any(|part| part.exact_keys.as_ref().is_some_and(|other| sorted(other) != sorted(keys)))
        {
            found.push((Place::field("exact_keys"), "its limit has other exact_keys".to_owned()));
            return found;
        }
        for (index, attribute) in self.per.iter().enumerate() {
            let place = if before.is_empty() {
                Place { index: Some(index), ..Place::field("per") }
            } else {
                Place::field("exact_keys")
            };
            let keys_changed = before.is_empty() || last.exact_keys.is_some();
            if keys_changed && self.lacks(attribute) {
                found.push((place, format!("exact_keys does not have {attribute}, which per needs")));
            }
        }
        let earlier = self.conditions.len() - last.conditions.len();
        for (at, (name, (attribute, condition))) in last.conditions.keys().zip(&self.conditions[earlier..]).enumerate()
        {
            let place = Place { name: Some(name.clone()), ..Place::field("match") };
            let mut others = self.conditions[..earlier].iter().filter(|(other, _)| other == attribute);
            let twin = self.conditions[earlier..earlier + at].iter().find(|(other, _)| other == attribute);
            if needs_presence(condition) && excludes_values(condition) {
                found.push((place, format!("no {attribute} fits this condition")));
            } else if excludes_values(condition) && self.per.contains(attribute) {
                found.push((place, format!("per needs {attribute}")));
            } else if excludes_values(condition) && self.has(attribute) {
                found.push((place, format!("exact_keys has {attribute}")));
            } else if needs_presence(condition) && self.lacks(attribute) {
                found.push((place, format!("exact_keys does not have {attribute}")));
            } else if others.any(|(_, other)| exclude_each_other(condition, other)) {
                found.push((place, format!("the match of its limit excludes this {attribute}")));
            } else if twin.is_some_and(|(_, other)| exclude_each_other(condition, other)) {
                found.push((place, format!("another condition on {attribute} excludes it")));
            }
        }
        // A new list of keys may contradict conditions of the limit.
        if last.exact_keys.is_some() && !before.is_empty() {
            let unmet = self.conditions[..earlier].iter().find(|(a, c)| needs_presence(c) && self.lacks(a));
            found.extend(unmet.map(|(attribute, _)| {
                (
                    Place::field("exact_keys"),
                    format!("it does not have {attribute}, which the match of its limit needs"),
                )
            }));
        }
        if found.is_empty()
            && let Some(why) = self.whens.iter().find_map(|(_, when)| self.why_never_true(when))
        {
            found.push((Place::field(if last.when.is_some() { "when" } else { "match" }), why.to_owned()));
        }
        found
    }

    /// Why a `when` is never true.
    fn why_never_true(&self, when: &Expression) -> Option<&'static str> {
        let nothing = Facts { attribute: &|_| Fact::Unknown, domain: None };
        if !when.can_be_true(&nothing) {
            return Some("when is never true");
        }
        let fact = |name: &str| self.fact(&Attribute::parse(name));
        let facts = Facts { attribute: &fact, domain: Some(self.domain) };
        (!when.can_be_true(&facts)).then_some("when is never true in this domain beside match, per and exact_keys")
    }

    fn conditions_on<'s>(&'s self, attribute: &'s Attribute) -> impl Iterator<Item = &'r Condition> + 's {
        self.conditions.iter().filter(move |(other, _)| other == attribute).map(|(_, condition)| *condition)
    }

    /// True if `exact_keys` has the attribute.
    fn has(&self, attribute: &Attribute) -> bool {
        self.exact_keys.as_ref().is_some_and(|keys| keys.contains(attribute))
    }

    /// True if `exact_keys` excludes the attribute.
    fn lacks(&self, attribute: &Attribute) -> bool {
        self.exact_keys.as_ref().is_some_and(|keys| !keys.contains(attribute))
    }

    /// True if the attribute must be present.
    fn needs(&self, attribute: &Attribute) -> bool {
        self.per.contains(attribute) || self.has(attribute) || self.conditions_on(attribute).any(needs_presence)
    }

    fn fact(&self, attribute: &Attribute) -> Fact {
        if self.lacks(attribute) || self.conditions_on(attribute).any(excludes_values) {
            return Fact::Absent;
        }
        if let Some(listed) = self.conditions_on(attribute).find_map(values) {
            let fits = |value: &&str| self.conditions_on(attribute).all(|condition| holds(condition, Some(value)));
            return Fact::OneOf(listed.into_iter().filter(fits).map(str::to_owned).collect());
        }
        if self.needs(attribute) { Fact::Present } else { Fact::Unknown }
    }

    /// True if `weak` holds whenever this does.
    pub fn implies(&self, weak: &Self) -> bool {
        let keys = weak.exact_keys.is_none() || weak.exact_keys == self.exact_keys;
        let needs_when = |(text, _): &(&str, Rc<Expression>)| self.whens.iter().any(|(own, _)| own == text);
        keys && weak.per.iter().all(|attribute| self.needs(attribute))
            && weak.conditions.iter().all(|(attribute, condition)| self.implies_condition(attribute, condition))
            && weak.whens.iter().all(needs_when)
    }

    fn implies_condition(&self, attribute: &Attribute, weak: &Condition) -> bool {
        let present = self.needs(attribute) && implies(&Condition::Present(true), weak);
        let absent = self.lacks(attribute) && implies(&Condition::Present(false), weak);
        present || absent || self.conditions_on(attribute).any(|strong| implies(strong, weak))
    }
}

/// Keys without their order, which those of a map do not have.
fn sorted(keys: &[String]) -> Vec<&String> {
    let mut keys: Vec<&String> = keys.iter().collect();
    keys.sort_unstable();
    keys
}

/// The overrides of a limit so far.
#[derive(Default)]
pub struct Reached<'r> {
    all: Vec<Requirement<'r>>,
    /// Those that list the values of an attribute, by such a value: few are compared with each later override.
    by_value: HashMap<(Attribute, &'r str), Vec<usize>>,
    general: Vec<usize>,
}

impl<'r> Reached<'r> {
    pub fn add(&mut self, requirement: Requirement<'r>) {
        let at = self.all.len();
        let listed = requirement.conditions.iter().filter_map(|(attribute, c)| Some((attribute, values(c)?)));
        // The values that the fewest others have: thousands of overrides may have one value in common.
        let shared = |(attribute, values): &(&Attribute, Vec<&'r str>)| {
            let lists = values.iter().filter_map(|value| self.by_value.get(&((*attribute).clone(), *value)));
            lists.map(Vec::len).max().unwrap_or(0)
        };
        match listed.min_by_key(shared) {
            Some((attribute, values)) => {
                for value in values {
                    self.by_value.entry((attribute.clone(), value)).or_default().push(at);
                }
            }
            None => self.general.push(at),
        }
        self.all.push(requirement);
    }

    /// The first of them that matches whenever `later` does.
    pub fn hiding(&self, later: &Requirement<'r>) -> Option<usize> {
        let first_values =
            later.conditions.iter().filter_map(|(attribute, c)| Some((attribute.clone(), *values(c)?.first()?)));
        let listed =
            first_values.filter_map(|key| self.by_value.get(&key)).flat_map(|list| list.iter().take(MAX_COMPARED));
        let general = self.general.iter().take(MAX_COMPARED);
        listed.chain(general).copied().filter(|at| later.implies(&self.all[*at])).min()
    }
}
