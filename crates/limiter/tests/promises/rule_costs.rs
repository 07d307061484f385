//! What a writer of rules could make a node spend: memory, and the time of a check.

use std::sync::Arc;

use limiter::Revision;
use limiter::rules::{Algorithm, Condition, Consistency, Domain, Limit, Match, Override, Problem, RuleBook, Rules};

use crate::rules::limit;

/// A limit with this condition on `path`.
fn on_path(at: usize, condition: Condition) -> Limit {
    let conditions = [("path".to_owned(), condition)].into();
    let matches = Match { conditions, ..Match::default() };
    Limit { matches, ..limit(&format!("l{at}"), Algorithm::FixedWindow, 1000, 60_000, Consistency::Leased) }
}

/// A large regular expression, and a different one for each `at`.
fn large_regex(at: usize) -> Condition {
    Condition::Regex(format!(r"^{at}\p{{L}}{{1,16}}$"))
}

fn compile(limits: Vec<Limit>) -> Result<RuleBook, Vec<Problem>> {
    let domain = Domain { domain: "d".to_owned(), limits, ..Domain::default() };
    RuleBook::compile(Arc::new(Rules { domains: vec![domain] }), Revision(1))
}

#[test]
fn a_book_whose_regular_expressions_take_too_much_memory_names_the_limit_where_the_budget_ends() {
    let limits = |count: usize| (0..count).map(|at| on_path(at, large_regex(at))).collect::<Vec<_>>();
    compile(limits(20)).unwrap();
    let problems = compile(limits(1000)).unwrap_err();
    let Problem { path, message } = &problems[0];
    assert_eq!(problems.len(), 1, "one error, not one for each further limit");
    assert!(message.contains("at most 128 MiB in the whole rule book"), "{message}");
    let place = path.to_string();
    let at: usize = place["domains[0].limits[".len()..place.find("].match.path").unwrap()].parse().unwrap();
    compile(limits(at)).unwrap();
    assert!(compile(limits(at + 1)).is_err(), "{place} is the limit where the budget ends");
}

#[test]
fn the_regular_expressions_of_overrides_and_of_when_count_as_well() {
    let Match { conditions, .. } = on_path(0, large_regex(0)).matches;
    let mut overridden = on_path(0, Condition::Present(true));
    let change =
        Override { matches: Match { conditions, ..Match::default() }, limit: Some(limit_of(1)), ..Override::default() };
    overridden.overrides = vec![change; 1000];
    let problems = compile(vec![overridden]).unwrap_err();
    assert!(problems[0].path.to_string().contains("overrides[") && problems[0].message.contains("128 MiB"));

    let mut filtered = on_path(0, Condition::Present(true));
    let matches = |n: usize| format!(r"attributes.path.matches('^{n}[\\w-]$')");
    filtered.matches.when = Some((0..8).map(matches).collect::<Vec<_>>().join(" || "));
    let named = |at: usize| Limit { name: format!("l{at}"), ..filtered.clone() };
    let problems = compile((0..1000).map(named).collect()).unwrap_err();
    assert!(
        problems[0].path.to_string().ends_with("].when") && problems[0].message.contains("128 MiB"),
        "{problems:?}"
    );
}

const fn limit_of(hits: u64) -> limiter::rules::Quota {
    limiter::rules::Quota::Hits(hits)
}
