//! Why limits do not apply to a descriptor, for people.

use std::collections::HashSet;

use super::attribute::Attribute;
use super::matcher::{Compiled, Expression, Matcher, Subject, address};
use super::rule::{Condition, Limit, Match, Mode, Override};
use super::rule_book::{ApplicableLimits, RuleBook};
use crate::check::{Check, Descriptor};

/// A limit of the domain that does not apply to a descriptor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unapplied {
    pub name: String,
    /// Every reason, such as `tier is pro, not free`. At least one.
    pub reasons: Vec<String>,
}

impl RuleBook {
    /// The limits that do not apply to any descriptor of `check`, in book order. The reasons are those of the first
    /// descriptor.
    pub fn unapplied(&self, check: &Check<'_>) -> Vec<Unapplied> {
        let mut applied = ApplicableLimits::new();
        self.applicable(check, &mut applied);
        let applies: HashSet<&str> = applied.iter().map(|limit| &*limit.effective.name).collect();
        let domain = self.rules().domains.iter().find(|domain| domain.domain == check.domain);
        let limits = domain.map(|domain| domain.limits.as_slice()).unwrap_or_default();
        let Some(descriptor) = check.descriptors.first() else { return Vec::new() };
        let replaces = |other: &&Limit, name: &String| {
            let enforced = || effective_mode(other, check.domain, descriptor).0 == Mode::Enforce;
            other.replaces.contains(name) && why_not(other, check.domain, descriptor).is_empty() && enforced()
        };
        let explained = limits.iter().filter(|limit| !applies.contains(limit.name.as_str())).map(|limit| {
            let mut reasons = why_not(limit, check.domain, descriptor);
            if reasons.is_empty() {
                let replacing = limits.iter().filter(|other| replaces(other, &limit.name));
                reasons.extend(replacing.map(|other| format!("{} replaces it", other.name)));
            }
            Unapplied { name: limit.name.clone(), reasons }
        });
        explained.collect()
    }
}

/// Why a limit does not match a descriptor, or is off for it. Empty if it matches.
fn why_not(limit: &Limit, domain: &str, descriptor: &Descriptor<'_>) -> Vec<String> {
    let mut reasons = why_no_match(&limit.matches, domain, descriptor);
    for per in &limit.per {
        let attribute = Attribute::parse(&per.attribute);
        let missing = format!("{attribute} is missing");
        if attribute.value(descriptor).is_none() && !reasons.contains(&missing) {
            reasons.push(missing);
        }
    }
    if reasons.is_empty() {
        let (mode, by_override) = effective_mode(limit, domain, descriptor);
        if mode == Mode::Off {
            reasons.push(format!("its mode is off{}", if by_override { " by an override" } else { "" }));
        }
    }
    reasons
}

/// The mode of a limit that matches a descriptor, and whether an override says it.
fn effective_mode(limit: &Limit, domain: &str, descriptor: &Descriptor<'_>) -> (Mode, bool) {
    let matches = |change: &&Override| {
        Matcher::new(&change.matches).is_ok_and(|matcher| matcher.matches(&Subject::new(domain, descriptor), &mut 0))
    };
    let mode = limit.overrides.iter().find(matches).and_then(|change| change.mode);
    (mode.unwrap_or(limit.mode), mode.is_some())
}

fn why_no_match(matches: &Match, domain: &str, descriptor: &Descriptor<'_>) -> Vec<String> {
    let mut reasons = Vec::new();
    if let Some(keys) = &matches.exact_keys
        && !descriptor.has_exactly(&Attribute::in_order(keys.iter().map(String::as_str)))
    {
        let found: Vec<&str> = descriptor.entries.iter().map(|(key, _)| *key).collect();
        reasons.push(format!("the keys are [{}], not exactly [{}]", found.join(", "), keys.join(", ")));
    }
    for (name, condition) in &matches.conditions {
        let attribute = Attribute::parse(name);
        let value = attribute.value(descriptor);
        if Compiled::new(condition).is_ok_and(|compiled| !compiled.holds(value)) {
            reasons.push(why_unmet(&attribute, condition, value));
        }
    }
    if let Some(Ok(when)) = matches.when.as_deref().map(Expression::compile) {
        reasons.extend(when.why_not(&Subject::new(domain, descriptor)));
    }
    reasons
}

/// Why a condition does not hold.
fn why_unmet(attribute: &Attribute, condition: &Condition, value: Option<&str>) -> String {
    let Some(value) = value else { return format!("{attribute} is missing") };
    let expected = match condition {
        Condition::Present(_) => return format!("{attribute} is present"),
        Condition::Equal(text) => format!("not {text}"),
        Condition::AnyOf(all) => format!("not one of {}", all.join(", ")),
        Condition::Prefix(text) => format!("which does not begin with {text}"),
        Condition::Suffix(text) => format!("which does not end with {text}"),
        Condition::Glob(pattern) => format!("which does not fit the glob {pattern}"),
        Condition::Route(pattern) => format!("which does not fit the route {pattern}"),
        Condition::Regex(pattern) => format!("which does not match the regex {pattern}"),
        Condition::Cidr(_) if address(value).is_none() => "which is no IP address".to_owned(),
        Condition::Cidr(nets) => format!("which is not in {}", nets.join(", ")),
        Condition::Not(_) => "which `not` excludes".to_owned(),
    };
    format!("{attribute} is {value}, {expected}")
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::revision::Revision;
    use crate::rules::{Algorithm, Domain, Per, Period, Quota, Rules};

    fn limit(name: &str, matches: Match, per: &[&str]) -> Limit {
        Limit {
            name: name.to_owned(),
            matches,
            per: per.iter().map(|name| Per::from(*name)).collect(),
            limit: Quota::Hits(1),
            period: Period::Window { ms: 1000 },
            algorithm: Algorithm::default(),
            cells: None,
            burst: None,
            consistency: None,
            scope: Default::default(),
            overdraft: false,
            on_store_failure: Default::default(),
            mode: Mode::Enforce,
            overrides: Vec::new(),
            replaces: Vec::new(),
            response_headers: Default::default(),
        }
    }

    fn on(name: &str, condition: Condition) -> Match {
        Match { conditions: [(name.to_owned(), condition)].into(), ..Match::default() }
    }

    fn reasons(limits: Vec<Limit>, entries: &[(&str, &str)]) -> Vec<(String, String)> {
        let domain = Domain { domain: "d".to_owned(), limits, ..Domain::default() };
        let book = RuleBook::compile(Arc::new(Rules { domains: vec![domain] }), Revision(1)).unwrap();
        let descriptors = [Descriptor { entries, ordered: true, hits: 1, charging: Default::default(), limit: None }];
        let unapplied = book.unapplied(&Check { domain: "d", descriptors: &descriptors });
        unapplied.into_iter().map(|limit| (limit.name, limit.reasons.join("; "))).collect()
    }

    #[test]
    fn every_kind_of_condition_says_why_it_does_not_hold() {
        use Condition::*;
        let text = |text: &str| text.to_owned();
        let entries = [("tier", "pro"), ("path", "/b/1"), ("ip", "10.0.0.1"), ("g", "a"), ("g", "b")];
        let table = [
            (on("tier", Equal(text("free"))), "tier is pro, not free"),
            (on("tier", AnyOf(vec![text("free"), text("basic")])), "tier is pro, not one of free, basic"),
            (on("user", Equal(text("u"))), "user is missing"),
            (on("user", Present(true)), "user is missing"),
            (on("tier", Present(false)), "tier is present"),
            (on("path", Prefix(text("/a"))), "path is /b/1, which does not begin with /a"),
            (on("path", Suffix(text("/2"))), "path is /b/1, which does not end with /2"),
            (on("path", Glob(text("/a/*"))), "path is /b/1, which does not fit the glob /a/*"),
            (on("path", Route(text("/a/{id}"))), "path is /b/1, which does not fit the route /a/{id}"),
            (on("path", Regex(text("^/a"))), "path is /b/1, which does not match the regex ^/a"),
            (on("ip", Cidr(vec![text("192.0.2.0/24")])), "ip is 10.0.0.1, which is not in 192.0.2.0/24"),
            (on("tier", Cidr(vec![text("192.0.2.0/24")])), "tier is pro, which is no IP address"),
            (on("tier", Not(Box::new(Equal(text("pro"))))), "tier is pro, which `not` excludes"),
            (on("g#2", Equal(text("c"))), "g#2 is b, not c"),
            (on("g#3", Equal(text("c"))), "g#3 is missing"),
            (
                Match { exact_keys: Some(vec![text("g"), text("g")]), ..Match::default() },
                "the keys are [tier, path, ip, g, g], not exactly [g, g]",
            ),
            (Match { when: Some(text("attributes.tier == 'free'")), ..Match::default() }, "when is false"),
            (Match { when: Some(text("attributes.age == '1'")), ..Match::default() }, "when fails: No such key: age"),
        ];
        for (matches, reason) in table {
            let found = reasons(vec![limit("l", matches.clone(), &[])], &entries);
            assert_eq!(found, [(text("l"), text(reason))], "{matches:?}");
        }
    }

    #[test]
    fn limits_that_are_off_or_replaced_say_so() {
        let entries = [("user", "u"), ("tier", "pro")];
        let mut off = limit("off", Match::default(), &[]);
        off.mode = Mode::Off;
        let mut overridden = limit("overridden", Match::default(), &["user"]);
        overridden.overrides = vec![Override {
            matches: on("user", Condition::Equal("u".to_owned())),
            mode: Some(Mode::Off),
            ..Override::default()
        }];
        let replaced = limit("replaced", Match::default(), &[]);
        let chained = limit("chained", Match::default(), &[]);
        let mut replacing = limit("replacing", Match::default(), &["user"]);
        replacing.replaces = vec!["replaced".to_owned()];
        let mut first = limit("first", Match::default(), &[]);
        first.replaces = vec!["second".to_owned()];
        let mut second = limit("second", Match::default(), &[]);
        second.replaces = vec!["chained".to_owned()];
        let several = limit("several", on("tier", Condition::Equal("free".to_owned())), &["tenant"]);
        let limits = vec![off, overridden, replaced, chained, replacing, first, second, several];
        let expected = [
            ("off", "its mode is off"),
            ("overridden", "its mode is off by an override"),
            ("replaced", "replacing replaces it"),
            ("chained", "second replaces it"),
            ("second", "first replaces it"),
            ("several", "tier is pro, not free; tenant is missing"),
        ];
        let found = reasons(limits, &entries);
        let found: Vec<(&str, &str)> = found.iter().map(|(name, reason)| (name.as_str(), reason.as_str())).collect();
        assert_eq!(found, expected);
    }
}
