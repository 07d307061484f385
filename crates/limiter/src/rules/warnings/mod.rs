//! Rules that are valid and that cannot do what they seem to say: a limit that never matches, an override that is never
//! reached, a text that looks like a pattern.
//!
//! A warning is sure: rules that could apply to some descriptor get none. Not every rule that never applies is found.

mod logic;
mod requirement;
mod spelling;

use std::collections::HashMap;

use self::requirement::{Reached, Requirement};
use super::path::Path;
use super::problem::Problem;
use super::rule::{Algorithm, Domain, Limit, Mode, OnStoreFailure, Quota, Rules, Unmatched};

/// Returns every warning about rules that are valid. `min_holders` is the node's `store.min_holders`.
pub fn warnings(rules: &Rules, min_holders: u32) -> Vec<Problem> {
    let mut found = Warnings::default();
    let root = Path::default().field("domains");
    if rules.domains.is_empty() {
        found.add(&root, "there is no domain: every check is allowed");
    }
    for (at, domain) in rules.domains.iter().enumerate() {
        of_domain(domain, min_holders, &root.index(at), &mut found);
    }
    found.0
}

#[derive(Default)]
struct Warnings(Vec<Problem>);

impl Warnings {
    fn add(&mut self, path: &Path, message: impl Into<String>) {
        self.0.push(Problem { path: path.clone(), message: message.into() });
    }
}

fn of_domain(domain: &Domain, min_holders: u32, path: &Path, found: &mut Warnings) {
    let path = path.field("limits");
    if domain.limits.is_empty() && domain.default == Unmatched::Allow {
        found.add(&path, "this domain has no limit: every check in it is allowed");
    }
    for (at, limit) in domain.limits.iter().enumerate() {
        let path = path.index(at);
        spelling::of_match(&limit.matches, &path, found);
        for (at, change) in limit.overrides.iter().enumerate() {
            spelling::of_match(&change.matches, &path.field("overrides").index(at), found);
        }
        let requirement = Requirement::of_limit(limit, &domain.domain);
        let contradictions = requirement.contradictions();
        if contradictions.is_empty() {
            of_overrides(limit, &requirement, &path, found);
        }
        for (place, why) in contradictions {
            found.add(&place.below(&path), format!("this limit never matches: {why}"));
        }
        if limit.mode == Mode::Shadow && !limit.replaces.is_empty() && !can_enforce(limit) {
            found.add(&path.field("replaces"), "a limit in shadow mode replaces nothing");
        }
        of_shares(limit, min_holders, &path, found);
    }
    of_replaced(domain, &path, found);
}

/// Warns of overrides that contradict their limit, and of those that an earlier one hides.
fn of_overrides(limit: &Limit, whole: &Requirement<'_>, path: &Path, found: &mut Warnings) {
    let mut reached = Reached::default();
    for (at, change) in limit.overrides.iter().enumerate() {
        let path = path.field("overrides").index(at);
        let requirement = whole.with(&change.matches);
        let contradictions = requirement.contradictions();
        if contradictions.is_empty()
            && let Some(earlier) = reached.hiding(&requirement)
        {
            let message = format!("this override is never reached: overrides[{earlier}] matches whenever it does");
            found.add(&path, message);
        }
        for (place, why) in contradictions {
            found.add(&place.below(&path), format!("this override never applies: {why}"));
        }
        reached.add(Requirement::of_override(&change.matches, whole.domain));
    }
}

/// Warns of limits that another limit always replaces.
fn of_replaced(domain: &Domain, path: &Path, found: &mut Warnings) {
    let place: HashMap<&str, usize> =
        domain.limits.iter().zip(0..).map(|(limit, at)| (limit.name.as_str(), at)).collect();
    for by in domain.limits.iter().filter(|limit| !limit.replaces.is_empty() && always_enforces(limit)) {
        let requirement = Requirement::of_limit(by, &domain.domain);
        for at in by.replaces.iter().filter_map(|name| place.get(name.as_str())) {
            if Requirement::of_limit(&domain.limits[*at], &domain.domain).implies(&requirement) {
                let message = format!("this limit never applies: {} replaces it whenever it matches", by.name);
                found.add(&path.index(*at).field("name"), message);
            }
        }
    }
}

fn can_enforce(limit: &Limit) -> bool {
    limit.mode == Mode::Enforce || limit.overrides.iter().any(|change| change.mode == Some(Mode::Enforce))
}

fn always_enforces(limit: &Limit) -> bool {
    let mut changed = limit.overrides.iter().filter_map(|change| change.mode);
    limit.mode == Mode::Enforce && changed.all(|mode| mode == Mode::Enforce)
}

/// True if a limit is so small that no holder has a share of it in an outage.
pub fn has_empty_shares(rules: &Rules, min_holders: u32) -> bool {
    let mut found = Warnings::default();
    let limits = rules.domains.iter().flat_map(|domain| &domain.limits);
    limits.for_each(|limit| of_shares(limit, min_holders, &Path::default(), &mut found));
    !found.0.is_empty()
}

/// Warns of limits that are so small that no holder has a share of them in an outage.
fn of_shares(limit: &Limit, min_holders: u32, path: &Path, found: &mut Warnings) {
    let bucket = limit.algorithm == Algorithm::TokenBucket;
    let mut check = |quota: Quota, burst: Option<u64>, failure: OnStoreFailure, mode: Mode, path: &Path| {
        let Quota::Hits(hits @ 1..) = quota else { return };
        let (most, what) = if bucket { (burst.unwrap_or(hits), "a burst") } else { (hits, "a limit") };
        if failure == OnStoreFailure::Local && mode == Mode::Enforce && most < u64::from(min_holders) {
            let message = format!(
                "on_store_failure: local admits nothing in an outage of the store: the share of each holder is {most} ÷ \
                 {min_holders} (store.min_holders), rounded down. Choose allow or deny, or {what} of {min_holders} or more"
            );
            found.add(path, message);
        }
    };
    check(limit.limit, limit.burst, limit.on_store_failure, limit.mode, &path.field("limit"));
    for (at, change) in limit.overrides.iter().enumerate() {
        let path = path.field("overrides").index(at);
        if change.limit.is_some() || change.burst.is_some() || change.on_store_failure.is_some() {
            let burst = change.burst.or(if change.limit.is_some() { None } else { limit.burst });
            let failure = change.on_store_failure.unwrap_or(limit.on_store_failure);
            let mode = change.mode.unwrap_or(limit.mode);
            check(change.limit.unwrap_or(limit.limit), burst, failure, mode, &path);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::check::{Check, Descriptor};
    use crate::revision::Revision;
    use crate::rules::rule::{Condition, Match, Override, Period};
    use crate::rules::{ApplicableLimits, Per, RuleBook, Step};

    fn condition() -> impl Strategy<Value = Condition> {
        let text = || prop::sample::select(vec!["x", "y", "xy", "10.0.0.1"]).prop_map(str::to_owned);
        let leaf = prop_oneof![
            text().prop_map(Condition::Equal),
            prop::collection::vec(text(), 1..3).prop_map(Condition::AnyOf),
            "[xy]?".prop_map(Condition::Prefix),
            "[xy]?".prop_map(Condition::Suffix),
            prop::sample::select(vec!["10.0.0.0/8", "10.0.0.1", "192.0.2.0/24"])
                .prop_map(|net| Condition::Cidr(vec![net.to_owned()])),
            any::<bool>().prop_map(Condition::Present),
        ];
        leaf.prop_recursive(1, 2, 1, |inner| inner.prop_map(|inner| Condition::Not(Box::new(inner))))
    }

    fn matches() -> impl Strategy<Value = Match> {
        let when = prop::sample::select(vec![
            "attributes.a == 'x'",
            "attributes.b != 'y'",
            "has(attributes.a)",
            "hits > 1",
            "domain == 'e'",
            "attributes['a#2'] == 'x'",
        ]);
        let when = prop::option::weighted(0.3, when.prop_map(str::to_owned));
        let exact_keys = prop::option::weighted(0.3, prop::collection::vec("[ab]", 1..3));
        let conditions = prop::collection::btree_map("[ab](#2)?", condition(), 0..3);
        (conditions, exact_keys, when).prop_map(|(conditions, exact_keys, when)| Match { conditions, exact_keys, when })
    }

    /// A limit of which every override has a number of its own.
    fn limit(name: &'static str) -> impl Strategy<Value = Limit> {
        let per = prop::collection::btree_set("[ab](#2)?", 0..2);
        let mode = prop::sample::select(vec![None, None, None, Some(Mode::Shadow), Some(Mode::Enforce)]);
        let overrides = prop::collection::vec((matches(), mode), 0..3);
        (matches(), per, overrides).prop_map(move |(matches, per, overrides)| {
            let change = |(number, (matches, mode))| Override {
                matches,
                limit: Some(Quota::Hits(number)),
                mode,
                ..Override::default()
            };
            Limit {
                name: name.to_owned(),
                matches,
                per: per.iter().map(|name| Per::from(name.as_str())).collect(),
                limit: Quota::Hits(1000),
                period: Period::Window { ms: 1000 },
                algorithm: Algorithm::default(),
                cells: None,
                burst: None,
                consistency: None,
                scope: Default::default(),
                overdraft: false,
                on_store_failure: Default::default(),
                mode: Mode::Enforce,
                overrides: (2000..).zip(overrides).map(change).collect(),
                replaces: if name == "second" { vec!["first".to_owned()] } else { Vec::new() },
                response_headers: Default::default(),
            }
        })
    }

    /// The limit and the override that a warning calls without effect.
    fn subject(warning: &Problem) -> (usize, Option<u64>) {
        let index = |at: usize| match warning.path.0.get(at) {
            Some(Step::Index(index)) => Some(*index),
            _ => None,
        };
        let is_override = warning.path.0.get(4) == Some(&Step::Field("overrides".to_owned()));
        let number = index(5).filter(|_| is_override).map(|at| 2000 + at as u64);
        (index(3).unwrap_or_else(|| panic!("{warning}")), number)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(1000))]
        /// Each warning is true: what it says never applies applies to no descriptor.
        #[test]
        fn no_descriptor_contradicts_a_warning(
            first in limit("first"),
            second in limit("second"),
            entries in prop::collection::vec(
                ("[ab]", prop::sample::select(vec!["x", "y", "xy", "", "10.0.0.1", "192.0.2.1"])), 0..4),
            ordered in any::<bool>(),
            hits in 1..3u32,
        ) {
            let limits = vec![first, second];
            let domain =
                Domain { domain: "d".to_owned(), limits, ..Domain::default() };
            let rules = Rules { domains: vec![domain] };
            let never: Vec<_> =
                warnings(&rules, 0).into_iter().filter(|w| w.message.starts_with("this ")).collect();
            let entries: Vec<(&str, &str)> = entries.iter().map(|(key, value)| (key.as_str(), *value)).collect();
            let descriptors = [Descriptor { entries: &entries, ordered, hits, charging: Default::default(), limit: None }];
            let book = RuleBook::compile(Arc::new(rules), Revision(1)).unwrap();
            let mut applied = ApplicableLimits::new();
            book.applicable(&Check { domain: "d", descriptors: &descriptors }, &mut applied);
            for warning in &never {
                let (limit, number) = subject(warning);
                let name = ["first", "second"][limit];
                let contradicts = applied.iter().any(|applied| {
                    *applied.effective.name == *name && number.is_none_or(|number| applied.effective.limit == number)
                });
                prop_assert!(!contradicts, "{warning}");
            }
        }
    }
}
