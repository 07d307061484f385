//! The limits of a tree: one for each entry with a `rate_limit`, or an override of the limit of its key alone.

use std::collections::{BTreeMap, HashMap};

use super::super::names::Names;
use super::super::{Report, cel, fixed_window};
use super::order::tried_before;
use super::read::{Entry, Pattern, RateLimit};
use super::replaces::{self, Named};
use limiter::rules::{Attribute, Condition, Limit, Match, Mode, Override, Per};

/// The window of an unlimited limit, which has none in the file. Its counter is only shown.
const UNLIMITED_WINDOW_MS: u64 = 60_000;
/// The longest `when`, in bytes.
const MAX_WHEN: usize = 4096;

/// An entry on the way from the root, and those that are tried before it.
struct Level<'e> {
    entry: &'e Entry,
    before: Vec<&'e Entry>,
}

/// The limits of a domain.
pub fn limits(domain: &str, entries: &[Entry], names: &mut Names, report: &mut Report) -> Vec<Limit> {
    let mut walk = Walk { domain, names, report, limits: Vec::new(), named: Vec::new() };
    walk.siblings(entries, &mut Vec::new());
    let Walk { mut limits, named, report, .. } = walk;
    replaces::resolve(&mut limits, &named, report);
    limits
}

struct Walk<'w, 'e> {
    domain: &'w str,
    names: &'w mut Names,
    report: &'w mut Report,
    limits: Vec<Limit>,
    /// What the file says about the replacements of each limit.
    named: Vec<Named<'e>>,
}

impl<'e> Walk<'_, 'e> {
    fn siblings(&mut self, siblings: &'e [Entry], above: &mut Vec<Level<'e>>) {
        let defaults = defaults(siblings);
        for (at, entry) in siblings.iter().enumerate() {
            let before = match tried_before(siblings, at) {
                Ok(before) => before,
                Err(other) => {
                    let itself = match entry.pattern.prefix() {
                        Some(prefix) => format!(", but for the text {:?} itself", format!("{prefix}*")),
                        None => String::new(),
                    };
                    let message = format!("is not carried over: {} takes every value before it{itself}", other.path);
                    self.report.notice(&entry.path, message);
                    continue;
                }
            };
            above.push(Level { entry, before });
            if let Some(limit) = &entry.limit
                && !defaults.get(entry.key.as_str()).is_some_and(|default| changes(default, entry))
            {
                self.limit(limit, above);
            }
            self.siblings(&entry.below, above);
            above.pop();
        }
    }

    /// Adds the limit of the last entry of `levels`.
    fn limit(&mut self, rate_limit: &'e RateLimit, levels: &[Level<'e>]) {
        let Some(last) = levels.last() else { return };
        let keys = || levels.iter().map(|level| level.entry.key.as_str());
        let attributes: Vec<String> = Attribute::in_order(keys()).iter().map(ToString::to_string).collect();
        let mut exclusion = Exclusion::default();
        for (level, attribute) in levels.iter().zip(&attributes) {
            let takes_overrides = std::ptr::eq(level, last) && rate_limit.is_alone();
            exclusion.add(level, attribute, takes_overrides, rate_limit);
        }
        let Exclusion { conditions, overrides, when } = exclusion;
        let when = (!when.is_empty()).then(|| when.join(" && "));
        if when.as_ref().is_some_and(|when| when.len() > MAX_WHEN) {
            let path = last.entry.path.field("rate_limit");
            self.report.notice(&path, "is not carried over: the values of other entries make its condition too long");
            return;
        }
        let name = match &rate_limit.name {
            Some(name) => self.names.unique(self.domain, [name.as_str()]),
            None => self.names.unique(self.domain, levels.iter().flat_map(|level| words(level.entry))),
        };
        if let Some(given) = rate_limit.name.as_ref().filter(|given| **given != name) {
            let path = last.entry.path.field("rate_limit").field("name");
            self.report.notice(&path, format!("{given:?} becomes {name}: names here are unique, of a-z, 0-9, _ and -"));
        }
        let counted =
            |(level, _): &(&Level<'_>, &String)| matches!(level.entry.pattern, Pattern::Any | Pattern::Prefix(_));
        let per = levels.iter().zip(&attributes).filter(counted).map(|(_, name)| Per::from(name.as_str())).collect();
        self.named.push(Named { name: rate_limit.name.as_deref(), replaces: &rate_limit.replaces });
        let matches = Match { conditions, exact_keys: Some(keys().map(str::to_owned).collect()), when };
        let ms = rate_limit.window_ms.unwrap_or(UNLIMITED_WINDOW_MS);
        let limit = fixed_window(name, matches, per, rate_limit.quota, ms);
        self.limits.push(Limit { mode: rate_limit.mode, overrides, ..limit });
    }
}

/// The key and the value of an entry, for the name of a limit.
fn words(entry: &Entry) -> impl Iterator<Item = &str> {
    let value = match &entry.pattern {
        Pattern::Any => Vec::new(),
        Pattern::Exact(value) => vec![value.as_str()],
        Pattern::Prefix(prefix) | Pattern::SharedPrefix(prefix) => vec![prefix, "any"],
    };
    std::iter::once(entry.key.as_str()).chain(value)
}

/// The limits of keys alone that may have overrides, by key.
fn defaults(siblings: &[Entry]) -> HashMap<&str, &RateLimit> {
    let all = siblings.iter().enumerate().filter(|(_, entry)| entry.pattern == Pattern::Any);
    let alone = all.filter_map(|(at, entry)| Some((at, entry, entry.limit.as_ref().filter(|limit| limit.is_alone())?)));
    let reached = alone.filter(|(at, ..)| tried_before(siblings, *at).is_ok());
    reached.map(|(_, entry, limit)| (entry.key.as_str(), limit)).collect()
}

/// True if an override of the limit of the key alone says all about `entry`: it has the same window, a counter for each
/// value, and no part in a replacement.
fn changes(default: &RateLimit, entry: &Entry) -> bool {
    let each_value = matches!(entry.pattern, Pattern::Exact(_) | Pattern::Prefix(_));
    let same_window = |limit: &RateLimit| limit.window_ms.is_none() || limit.window_ms == default.window_ms;
    each_value && entry.limit.as_ref().is_some_and(|limit| limit.is_alone() && same_window(limit))
}

/// The condition of an entry. `None` if it takes every value.
fn condition(pattern: &Pattern) -> Option<Condition> {
    match pattern {
        Pattern::Any => None,
        Pattern::Exact(value) => Some(Condition::Equal(value.clone())),
        Pattern::Prefix(prefix) | Pattern::SharedPrefix(prefix) if prefix.is_empty() => None,
        Pattern::Prefix(prefix) | Pattern::SharedPrefix(prefix) => Some(Condition::Prefix(prefix.clone())),
    }
}

/// What restricts a limit to the descriptors that come to its entry.
#[derive(Default)]
struct Exclusion {
    conditions: BTreeMap<String, Condition>,
    overrides: Vec<Override>,
    when: Vec<String>,
}

impl Exclusion {
    fn add(&mut self, level: &Level<'_>, attribute: &str, takes_overrides: bool, limit: &RateLimit) {
        let Level { entry, before } = level;
        let own = condition(&entry.pattern);
        let others: Vec<Condition> = before.iter().filter_map(|other| condition(&other.pattern)).collect();
        let is_default = entry.pattern == Pattern::Any && takes_overrides;
        if is_default && before.iter().any(|other| changes(limit, other)) {
            let changed = |(other, condition): (&&Entry, &Condition)| change(limit, other, attribute, condition);
            self.overrides.extend(before.iter().zip(&others).map(changed));
        } else if let Some(not) = not_any(&others).filter(|_| own.is_none()) {
            self.conditions.insert(attribute.to_owned(), not);
        } else if limit.replaces.is_empty() {
            self.overrides.extend(others.iter().map(|other| off(attribute, other)));
        } else {
            self.when.extend(others.iter().filter_map(|other| unlike(attribute, other)));
        }
        if let Some(own) = own {
            self.conditions.insert(attribute.to_owned(), own);
        }
    }
}

/// Where none of the conditions holds, as one condition if there is one that says so. `None` also if there is nothing
/// to exclude.
fn not_any(others: &[Condition]) -> Option<Condition> {
    let equal = |other: &Condition| match other {
        Condition::Equal(value) => Some(value.clone()),
        _ => None,
    };
    let inner = match others {
        [] => return None,
        [one] => one.clone(),
        several => Condition::AnyOf(several.iter().map(equal).collect::<Option<_>>()?),
    };
    Some(Condition::Not(Box::new(inner)))
}

/// The override for a value that another entry takes: its limit, or none here.
fn change(default: &RateLimit, other: &Entry, attribute: &str, condition: &Condition) -> Override {
    let none = off(attribute, condition);
    let Some(limit) = other.limit.as_ref().filter(|_| changes(default, other)) else { return none };
    Override { limit: Some(limit.quota), mode: (limit.mode != default.mode).then_some(limit.mode), ..none }
}

fn off(attribute: &str, condition: &Condition) -> Override {
    let conditions = [(attribute.to_owned(), condition.clone())].into();
    Override { matches: Match { conditions, ..Default::default() }, mode: Some(Mode::Off), ..Default::default() }
}

/// A CEL expression that is true where the condition of another entry does not hold.
fn unlike(attribute: &str, other: &Condition) -> Option<String> {
    let value = cel::attribute(attribute);
    match other {
        Condition::Equal(text) => Some(format!("{value} != {}", cel::quoted(text))),
        Condition::Prefix(prefix) => Some(format!("!{value}.startsWith({})", cel::quoted(prefix))),
        _ => None,
    }
}
