//! `replaces`: limits that do not apply because another limit of the same check does.

use limiter::rules::{Algorithm, Charge, Condition, Consistency, Domain, Limit, Match, Mode, Override, Quota};

use crate::dry_domain::{DryDomain, Entries, told};
use crate::rules::limit;

/// A limit that matches descriptors with the attribute of its name, and replaces others.
fn rule(name: &str, replaces: &[&str], mode: Mode) -> Limit {
    let conditions = [(name.to_owned(), Condition::Present(true))].into();
    Limit {
        matches: Match { conditions, ..Match::default() },
        per: Vec::new(),
        replaces: replaces.iter().map(|name| (*name).to_owned()).collect(),
        mode,
        ..limit(name, Algorithm::FixedWindow, 10, 60_000, Consistency::Exact)
    }
}

/// The limits that apply to a check, as `descriptor name`.
fn applied(domain: Domain, descriptors: &[Entries<'_>]) -> Vec<String> {
    let lines = told(&DryDomain::new(domain).check(0, 1, descriptors));
    lines.iter().map(|line| line.rsplit_once(' ').unwrap().0.to_owned()).collect()
}

fn of_limits(limits: Vec<Limit>) -> Domain {
    Domain { limits, ..Domain::default() }
}

#[test]
fn a_limit_that_matches_replaces_the_limits_that_it_names() {
    let limits = || of_limits(vec![rule("a", &["b"], Mode::Enforce), rule("b", &[], Mode::Enforce)]);
    assert_eq!(applied(limits(), &[&[("a", ""), ("b", "")]]), ["0 a"]);
    assert_eq!(applied(limits(), &[&[("b", "")]]), ["0 b"], "a does not match");
    // The order of the limits does not matter.
    let reversed = of_limits(vec![rule("b", &[], Mode::Enforce), rule("a", &["b"], Mode::Enforce)]);
    assert_eq!(applied(reversed, &[&[("a", ""), ("b", "")]]), ["0 a"]);
}

#[test]
fn a_replaced_limit_is_not_charged() {
    let b = Limit { limit: Quota::Hits(1), ..rule("b", &[], Mode::Enforce) };
    let mut domain = DryDomain::with_limits(vec![rule("a", &["b"], Mode::Enforce), b]);
    for left in ["0 a 9/10", "0 a 8/10"] {
        assert_eq!(told(&domain.check(0, 1, &[&[("a", ""), ("b", "")]])), [left]);
    }
    assert_eq!(told(&domain.check(0, 1, &[&[("b", "")]])), ["0 b 0/1"], "its only hit is left");
}

#[test]
fn only_a_limit_that_enforces_replaces() {
    for (mode, expected) in [(Mode::Enforce, vec!["0 a"]), (Mode::Shadow, vec!["0 a", "0 b"]), (Mode::Off, vec!["0 b"])]
    {
        let limits = vec![rule("a", &["b"], mode), rule("b", &[], Mode::Enforce)];
        assert_eq!(applied(of_limits(limits), &[&[("a", ""), ("b", "")]]), expected, "{mode:?}");
        // The mode of a replaced limit does not matter.
        let limits = vec![rule("a", &["b"], Mode::Enforce), rule("b", &[], mode)];
        assert_eq!(applied(of_limits(limits), &[&[("a", ""), ("b", "")]]), ["0 a"], "{mode:?}");
    }
}

#[test]
fn the_mode_of_an_override_says_whether_a_limit_replaces() {
    let matches = Match { conditions: [("quiet".to_owned(), Condition::Present(true))].into(), ..Match::default() };
    let for_quiet = |mode| Override { matches: matches.clone(), mode: Some(mode), ..Override::default() };
    let limits = |mode, by_override| {
        let a = Limit { overrides: vec![for_quiet(by_override)], ..rule("a", &["b"], mode) };
        of_limits(vec![a, rule("b", &[], Mode::Enforce)])
    };
    let (loud, quiet): (Entries<'_>, Entries<'_>) = (&[("a", ""), ("b", "")], &[("a", ""), ("b", ""), ("quiet", "")]);
    assert_eq!(applied(limits(Mode::Enforce, Mode::Shadow), &[quiet]), ["0 a", "0 b"]);
    assert_eq!(applied(limits(Mode::Enforce, Mode::Shadow), &[loud]), ["0 a"]);
    assert_eq!(applied(limits(Mode::Shadow, Mode::Enforce), &[quiet]), ["0 a"]);
    assert_eq!(applied(limits(Mode::Shadow, Mode::Enforce), &[loud]), ["0 a", "0 b"]);
}

#[test]
fn a_limit_replaces_in_every_descriptor_of_the_check() {
    for charge in [Charge::AllOrNothing, Charge::Each] {
        let limits = vec![rule("a", &["b"], Mode::Enforce), rule("b", &[], Mode::Enforce)];
        let domain = Domain { charge, limits, ..Domain::default() };
        assert_eq!(applied(domain, &[&[("b", "")], &[("a", "")], &[("b", "")]]), ["1 a"], "{charge:?}");
    }
}

#[test]
fn replacements_are_one_pass_without_chains() {
    let limits = || {
        of_limits(vec![
            rule("a", &["b"], Mode::Enforce),
            rule("b", &["c"], Mode::Enforce),
            rule("c", &[], Mode::Enforce),
        ])
    };
    // All that match replace, also those that are replaced.
    assert_eq!(applied(limits(), &[&[("a", ""), ("b", ""), ("c", "")]]), ["0 a"]);
    // A limit does not replace what a limit that it names would replace.
    assert_eq!(applied(limits(), &[&[("a", ""), ("c", "")]]), ["0 a", "0 c"]);
}
