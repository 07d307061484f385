//! The differences between two rule books, field by field, and what they do to counters that are in use.

use std::collections::BTreeSet;

use limiter::rules::{DEFAULT_CELLS, Domain, Limit, Mode, Quota, Rules};
use serde::Serialize;
use serde_json::{Map, Value};

use super::encode::{domain_json, limit_json};

/// A changed limit, or the changed fields of a domain itself.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Difference {
    /// `domain/limit`, or `domain`.
    pub name: String,
    pub kind: Kind,
    pub fields: Vec<FieldChange>,
    /// What the change does to counters that are in use.
    pub effects: Vec<Effect>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    Added,
    Removed,
    Changed,
}

/// One field, as in a rule file. `None`: the field has its default.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FieldChange {
    pub field: String,
    pub old: Option<Value>,
    pub new: Option<Value>,
}

/// What a change does to the counters of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    CountersContinue,
    /// The window, the calendar, the algorithm, the cells or `per` changed.
    CountersStartAnew,
    /// Fewer hits pass.
    Stricter,
}

impl Effect {
    /// The effect in words, for people.
    pub const fn text(self) -> &'static str {
        match self {
            Self::CountersContinue => "counters continue",
            Self::CountersStartAnew => "counters start anew",
            Self::Stricter => "stricter",
        }
    }
}

/// The differences from `old` to `new`, by domain and limit.
pub fn differences(old: &Rules, new: &Rules) -> Vec<Difference> {
    let find = |rules: &'_ Rules, name: &str| rules.domains.iter().position(|domain| domain.domain == name);
    let names: BTreeSet<&str> = old.domains.iter().chain(&new.domains).map(|domain| domain.domain.as_str()).collect();
    let mut all = Vec::new();
    for name in names {
        let before = find(old, name).map(|at| &old.domains[at]);
        let after = find(new, name).map(|at| &new.domains[at]);
        all.extend(of_domain(name, before, after));
        all.extend(of_limits(name, before, after));
    }
    all
}

fn of_domain(name: &str, old: Option<&Domain>, new: Option<&Domain>) -> Option<Difference> {
    let terms = |domain: Option<&Domain>| {
        let bare = domain.map(|domain| domain_json(&Domain { limits: Vec::new(), ..domain.clone() }));
        let mut fields = fields(bare);
        fields.remove("limits");
        fields.remove("domain");
        fields
    };
    let changes = changes(&terms(old), &terms(new));
    let kind = match (old, new) {
        (None, _) => Kind::Added,
        (_, None) => Kind::Removed,
        _ if changes.is_empty() => return None,
        _ => Kind::Changed,
    };
    Some(Difference { name: name.to_owned(), kind, fields: changes, effects: Vec::new() })
}

fn of_limits(domain: &str, old: Option<&Domain>, new: Option<&Domain>) -> Vec<Difference> {
    let limits = |domain: Option<&Domain>| domain.map(|domain| domain.limits.clone()).unwrap_or_default();
    let (old, new) = (limits(old), limits(new));
    let names: BTreeSet<&str> = old.iter().chain(&new).map(|limit| limit.name.as_str()).collect();
    let differences = names.into_iter().filter_map(|name| {
        let find = |limits: &'_ [Limit]| limits.iter().find(|limit| limit.name == name).cloned();
        let (before, after) = (find(&old), find(&new));
        let changes = changes(&fields(before.as_ref().map(limit_json)), &fields(after.as_ref().map(limit_json)));
        let (kind, effects) = match (&before, &after) {
            (None, _) => (Kind::Added, Vec::new()),
            (_, None) => (Kind::Removed, Vec::new()),
            _ if changes.is_empty() => return None,
            (Some(before), Some(after)) => (Kind::Changed, effects(before, after)),
        };
        Some(Difference { name: format!("{domain}/{name}"), kind, fields: changes, effects })
    });
    differences.collect()
}

fn fields(json: Option<Value>) -> Map<String, Value> {
    match json {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    }
}

fn changes(old: &Map<String, Value>, new: &Map<String, Value>) -> Vec<FieldChange> {
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let changed = names.into_iter().filter(|name| old.get(*name) != new.get(*name));
    changed
        .map(|name| FieldChange { field: name.clone(), old: old.get(name).cloned(), new: new.get(name).cloned() })
        .collect()
}

fn effects(old: &Limit, new: &Limit) -> Vec<Effect> {
    let cells = |limit: &Limit| limit.cells.unwrap_or(DEFAULT_CELLS);
    let same =
        old.period == new.period && old.algorithm == new.algorithm && cells(old) == cells(new) && old.per == new.per;
    let mut effects = vec![if same { Effect::CountersContinue } else { Effect::CountersStartAnew }];
    let hits = |quota: Quota| match quota {
        Quota::Hits(hits) => hits,
        Quota::Unlimited => u64::MAX,
    };
    let burst = |limit: &Limit| limit.burst.unwrap_or_else(|| hits(limit.limit));
    let enforced = old.mode != Mode::Enforce && new.mode == Mode::Enforce;
    if hits(new.limit) < hits(old.limit) || burst(new) < burst(old) || enforced {
        effects.push(Effect::Stricter);
    }
    effects
}

#[cfg(test)]
mod tests {
    use super::super::decode::read_rules;
    use super::*;

    fn rules(limits: &str) -> Rules {
        read_rules(&format!("version: 1\ndomains: [{{ domain: api, limits: [{limits}] }}]")).unwrap()
    }

    #[test]
    fn differences_name_each_field_and_what_happens_to_counters() {
        let base = "{ name: l, per: [user], limit: 10, window: 1m }";
        let (continues, anew, stricter) = (Effect::CountersContinue, Effect::CountersStartAnew, Effect::Stricter);
        let table: [(&str, &[&str], &[Effect]); 8] = [
            (base, &[], &[]),
            ("{ name: l, per: [user], limit: 20, window: 1m }", &["limit"], &[continues]),
            ("{ name: l, per: [user], limit: 5, window: 60s }", &["limit"], &[continues, stricter]),
            ("{ name: l, per: [user], limit: unlimited, window: 1m }", &["limit"], &[continues]),
            ("{ name: l, per: [user], limit: 10, window: 1h }", &["window"], &[anew]),
            ("{ name: l, per: [ip], limit: 10, window: 1m }", &["per"], &[anew]),
            ("{ name: l, per: [user], limit: 10, window: 1m, algorithm: fixed_window }", &["algorithm"], &[anew]),
            ("{ name: l, per: [user], limit: 10, window: 1m, consistency: exact }", &["consistency"], &[continues]),
        ];
        for (new, fields, effects) in table {
            let all = differences(&rules(base), &rules(new));
            let named: Vec<&str> = all.iter().flat_map(|one| &one.fields).map(|change| change.field.as_str()).collect();
            let found: Vec<Effect> = all.iter().flat_map(|one| one.effects.clone()).collect();
            assert_eq!((named.as_slice(), found.as_slice()), (fields, effects), "{new}");
        }
    }

    #[test]
    fn limits_and_domains_come_and_go() {
        let one = rules("{ name: a, per: [], limit: 1, window: 1s }");
        let other = rules("{ name: b, per: [], limit: 1, window: 1s }");
        let names = |old: &Rules, new: &Rules| {
            differences(old, new).into_iter().map(|one| (one.name, one.kind)).collect::<Vec<_>>()
        };
        assert_eq!(names(&one, &other), [("api/a".to_owned(), Kind::Removed), ("api/b".to_owned(), Kind::Added)]);
        let none = Rules::default();
        assert_eq!(names(&none, &one), [("api".to_owned(), Kind::Added), ("api/a".to_owned(), Kind::Added)]);
        let mut strict = one.clone();
        strict.domains[0].default = limiter::rules::Unmatched::Deny;
        assert_eq!(names(&one, &strict), [("api".to_owned(), Kind::Changed)]);
    }
}
