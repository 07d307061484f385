//! What a writer of rules could make a node spend: memory, and the time of a check.

use std::sync::Arc;

use limiter::rules::{
    APPLIED, Algorithm, Condition, Consistency, Domain, Limit, MAX_WORK, Match, Mode, Override, Problem, RuleBook,
    Rules,
};
use limiter::{Check, Decision, Descriptor, DryRun, Revision, StoreTime};

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

#[test]
fn long_expressions_end_the_budget_before_they_take_long_to_compile() {
    let when = format!("[{}].exists(x, x == 2)", vec!["1"; 1900].join(","));
    let long = |at: usize| {
        let limit = on_path(at, Condition::Present(true));
        Limit { matches: Match { when: Some(when.clone()), ..limit.matches }, ..limit }
    };
    // Each has 3,823 bytes, which take 1.1 MiB of the 128 MiB.
    let problems = compile((0..1000).map(long).collect()).unwrap_err();
    assert_eq!(problems.len(), 1, "no further one is compiled");
    assert_eq!(problems[0].path.to_string(), "domains[0].limits[112].when");
    assert!(problems[0].message.contains("at most 128 MiB in the whole rule book"), "{}", problems[0].message);
}

fn per_user(count: usize) -> Vec<Limit> {
    (0..count).map(|at| limit(&format!("l{at}"), Algorithm::FixedWindow, 1000, 60_000, Consistency::Leased)).collect()
}

/// Decides a check with a descriptor for each of these numbers of users.
fn decide(dry_run: &mut DryRun, users: std::ops::Range<usize>) -> Decision {
    let users: Vec<String> = users.map(|at| format!("u{at}")).collect();
    let entries: Vec<[(&str, &str); 1]> = users.iter().map(|user| [("user", user.as_str())]).collect();
    let descriptor =
        |entries| Descriptor { entries, ordered: true, hits: 1, charging: Default::default(), limit: None };
    let descriptors: Vec<Descriptor<'_>> = entries.iter().map(|entries| descriptor(entries)).collect();
    dry_run.check(&Check { domain: "d", descriptors: &descriptors }, 0).unwrap()
}

#[test]
fn a_check_that_is_too_much_work_is_denied_and_charged_nowhere() {
    let mut dry_run = DryRun::new(Arc::new(compile(per_user(200)).unwrap()), StoreTime(1_700_000_000_000_000));
    let denied = decide(&mut dry_run, 0..100);
    assert!(!denied.allowed && denied.too_much_work && denied.limits.is_empty() && denied.retry_after.is_none());
    let allowed = decide(&mut dry_run, 0..5);
    assert!(allowed.allowed && !allowed.too_much_work);
    assert_eq!(allowed.limits.len(), 5 * 200);
    assert!(allowed.limits.iter().all(|limit| limit.remaining == Some(999)), "the first check was charged nowhere");
}

#[test]
fn a_check_with_one_descriptor_is_never_too_much_work() {
    // A book with as many limits that all apply as are valid.
    let counts: Vec<usize> = (1..5000).collect();
    let most = counts.partition_point(|count| compile(per_user(*count)).is_ok());
    assert!(most > 1000 && most * APPLIED <= MAX_WORK, "{most} limits");
    let mut dry_run = DryRun::new(Arc::new(compile(per_user(most)).unwrap()), StoreTime(1_700_000_000_000_000));
    let decision = decide(&mut dry_run, 0..1);
    assert!(decision.allowed && decision.limits.len() == most);

    let Problem { path, message } = &compile(per_user(most + 1)).unwrap_err()[0];
    assert_eq!(path.to_string(), "domains[0].limits");
    assert!(message.contains("at most 200000 steps"), "{message}");
}

#[test]
fn a_book_in_which_two_limits_would_have_one_counter_is_invalid() {
    // Their counters begin with the same 48 bits. They were found by trying 17 million names.
    let colliding = |name: &str| limit(name, Algorithm::FixedWindow, 1000, 60_000, Consistency::Leased);
    let (first, second) = (colliding("l9579926"), colliding("l10821265"));
    let Problem { path, message } = &compile(vec![first.clone(), second.clone()]).unwrap_err()[0];
    assert_eq!(path.to_string(), "domains[0].limits[1].name");
    assert!(message.contains("the counters of this limit would be those of d/l9579926"), "{message}");
    for alone in [&first, &second] {
        compile(vec![alone.clone()]).unwrap();
    }
    // Another window has other counters, and a limit that is off has none.
    let longer = limit("l10821265", Algorithm::FixedWindow, 1000, 60_001, Consistency::Leased);
    compile(vec![first.clone(), longer]).unwrap();
    compile(vec![first.clone(), Limit { mode: Mode::Off, ..second }]).unwrap();
    // Overrides with the same conditions, of which only the first one ever applies, have one counter.
    let change = |hits| Override {
        matches: on_path(0, Condition::Equal("/".to_owned())).matches,
        limit: Some(limit_of(hits)),
        ..Override::default()
    };
    compile(vec![Limit { overrides: vec![change(1), change(2)], ..first }]).unwrap();
}

#[test]
fn a_check_that_is_exactly_as_much_work_as_may_be_is_decided() {
    // Each limit takes 10 steps to be tried and 90 to be applied.
    let limits = per_user(MAX_WORK / 100).into_iter().map(|limit| Limit { per: Vec::new(), ..limit }).collect();
    let mut dry_run = DryRun::new(Arc::new(compile(limits).unwrap()), StoreTime(1_700_000_000_000_000));
    let decision = decide(&mut dry_run, 0..1);
    assert!(decision.allowed && !decision.too_much_work);
    assert_eq!(decision.limits.len(), MAX_WORK / 100);
}

/// The error about the work of one descriptor, if there is one.
fn too_much(limits: Vec<Limit>) -> Option<String> {
    let problems = compile(limits).err()?;
    problems.into_iter().map(|problem| problem.message).find(|message| message.contains("steps"))
}

#[test]
fn a_route_of_many_segments_does_not_overflow_the_stack() {
    let route = |segments: usize| on_path(0, Condition::Route("/a".repeat(segments)));
    compile(vec![route(100)]).unwrap();
    for segments in [101, 1_000_000] {
        let problems = compile(vec![route(segments)]).unwrap_err();
        assert!(problems[0].message.contains("at most 100 segments"), "{problems:?}");
    }
}

#[test]
fn limits_that_exclude_each_other_are_no_work_together() {
    let equal = |at| on_path(at, Condition::Equal(format!("/{at}")));
    let prefix = |at| on_path(at, Condition::Prefix(format!("/{at:05}/")));
    let route = |at| on_path(at, Condition::Route(format!("/{at}/{{id}}")));
    let network = |at: usize| on_path(at, Condition::Cidr(vec![format!("10.{}.{}.0/24", at / 256, at % 256)]));
    for book in [equal as fn(usize) -> Limit, prefix, route, network] {
        assert_eq!(too_much((0..10_000).map(book).collect()), None);
    }
    let nested_prefix = |at| on_path(at, Condition::Prefix("/".repeat(at + 1)));
    let same_route = |at: usize| {
        let segments = (0..12).map(|bit| if at >> bit & 1 == 0 { "/a" } else { "/{x}" });
        on_path(at, Condition::Route(segments.collect()))
    };
    let same_network = |at: usize| on_path(at, Condition::Cidr(vec![format!("10.0.0.0/{}", at % 32)]));
    for book in [nested_prefix as fn(usize) -> Limit, same_route, same_network] {
        assert!(too_much((0..4000).map(book).collect()).is_some());
    }
}

#[test]
fn conditions_that_cost_much_and_never_hold_are_work_as_well() {
    let when = |source: String| {
        let mut costly = on_path(0, Condition::Present(true));
        costly.matches.when = Some(source);
        costly
    };
    let named = |limit: &Limit, count: usize| -> Vec<Limit> {
        (0..count).map(|at| Limit { name: format!("l{at}"), ..limit.clone() }).collect()
    };
    let list = vec!["'x'"; 150].join(",");
    let body = vec!["x == 'y'"; 30].join("&&");
    let looping = when(format!("[{list}].all(x, {body})"));
    assert_eq!(too_much(named(&looping, 1)), None);
    assert!(too_much(named(&looping, 20)).is_some());

    let networks = (0..3000).map(|at| format!("10.{}.{}.0/24", at / 256, at % 256)).collect();
    let scanned = on_path(0, Condition::Not(Box::new(Condition::Cidr(networks))));
    assert_eq!(too_much(named(&scanned, 100)), None);
    assert!(too_much(named(&scanned, 200)).is_some());

    let overridden = |count: usize| {
        let mut limit = on_path(0, Condition::Present(true));
        let one = |at: usize| Override {
            matches: on_path(at, Condition::Suffix("x".repeat(at % 40 + 1))).matches,
            limit: Some(limit_of(at as u64)),
            ..Override::default()
        };
        limit.overrides = (0..count).map(one).collect();
        limit
    };
    assert_eq!(too_much(vec![overridden(1000)]), None);
    assert!(too_much(named(&overridden(1000), 20)).is_some());
}

/// Decides a check of one user for a path.
fn decide_path(book: Vec<Limit>, path: &str) -> Decision {
    let mut dry_run = DryRun::new(Arc::new(compile(book).unwrap()), StoreTime(1_700_000_000_000_000));
    let entries = [("path", path), ("user", "u")];
    let descriptor =
        Descriptor { entries: &entries, ordered: true, hits: 1, charging: Default::default(), limit: None };
    dry_run.check(&Check { domain: "d", descriptors: &[descriptor] }, 0).unwrap()
}

/// A search with this expression goes through a text with up to 500 states at each byte.
const SLOW_REGEX: &str = "[ab]*a[ab]{500}[^ab]c";

#[test]
fn searches_that_could_take_long_are_work_for_each_byte_of_a_text() {
    let slow = |at: usize| on_path(at, Condition::Regex(format!("{SLOW_REGEX}{at}")));
    let mut expression = on_path(0, Condition::Present(true));
    expression.matches.when = Some(format!("attributes.path.matches('{SLOW_REGEX}')"));
    let mut joined = expression.clone();
    joined.matches.when = Some(format!("(attributes.path + attributes.path).matches('{SLOW_REGEX}')"));
    for limit in [slow(0), expression, joined] {
        let short = decide_path(vec![limit.clone()], &"ab".repeat(40));
        assert!(short.allowed && !short.too_much_work, "{limit:?}");
        let long = decide_path(vec![limit.clone()], &"ab".repeat(2048));
        assert!(!long.allowed && long.too_much_work, "{limit:?}");
    }
    // Each call of `matches` counts.
    let called = |times: usize| {
        let calls = vec![r"attributes.path.matches('\b[^x]{40}[A-Z]\b')"; times];
        let mut limit = on_path(0, Condition::Present(true));
        limit.matches.when = Some(calls.join(" || "));
        limit
    };
    assert!(decide_path(vec![called(10)], &"a".repeat(128)).allowed);
    assert!(too_much(vec![called(60)]).is_some());

    assert_eq!(too_much(vec![slow(0)]), None);
    assert!(too_much((0..2).map(slow).collect()).is_some());

    // Expressions with few states are cheap, and not for nothing either.
    let quick = |at: usize| on_path(at, Condition::Regex(format!("^(/[a-z]+)*/x{at}$")));
    let book: Vec<Limit> = (0..300).map(quick).collect();
    assert!(decide_path(book.clone(), "/a/b/c").allowed);
    assert!(decide_path(book[..100].to_vec(), &"/ab".repeat(1365)).allowed);
    assert!(decide_path(book, &"/ab".repeat(1365)).too_much_work);
}

#[test]
fn to_look_for_a_text_in_a_long_one_is_work() {
    let zeros = vec!["0"; 1500].join(",");
    let many = format!("[{zeros}].all(x, !attributes.path.contains('ab'))");
    let sums = vec!["attributes.path"; 60].join(" + ");
    let joined = format!("[{sums}].all(x, {})", vec!["!x.contains('ab')"; 50].join(" && "));
    for when in [many, joined] {
        let mut limit = on_path(0, Condition::Present(true));
        limit.matches.when = Some(when);
        assert!(decide_path(vec![limit.clone()], "/a").allowed);
        assert!(decide_path(vec![limit], &"a".repeat(4096)).too_much_work);
    }
}

#[test]
fn to_read_and_copy_long_texts_is_work() {
    let any = |part: &str, count: usize| vec![part; count].join(" || ");
    let ones = vec!["1"; 400].join(",");
    let decide = |when: String, path: &str| {
        let mut limit = on_path(0, Condition::Present(true));
        limit.matches.when = Some(when);
        decide_path(vec![limit], path)
    };
    let long = "9".repeat(900_000);
    for when in [
        any("double(attributes.path) < 1.0", 30),
        any("size(attributes.path) < 1", 30),
        any("attributes.path == attributes.user", 30),
        any("attributes[attributes.path] == ''", 30),
        any("{'a': 'b'}[attributes.path] == ''", 30),
        any("attributes.path.matches('^b$')", 30),
        any("attributes.exists(name, size(attributes[name]) < 1)", 1),
        format!("{} == ''", vec!["attributes.path"; 64].join(" + ")),
        format!("[{}] == []", vec!["attributes.path"; 200].join(", ")),
        format!("[{ones}].exists(x, int(attributes.path) < x)"),
    ] {
        assert!(decide(when.clone(), "/a").allowed, "{when}");
        assert!(decide(when.clone(), &long).too_much_work, "{when}");
    }
    // No comparison with a short text reads more of a long one.
    for when in ["attributes.path == '/a'", "attributes.path.startsWith('/a')", "attributes.path > '/a'"] {
        assert!(decide(any(when, 30), &long).allowed, "{when}");
    }
}

#[test]
fn usual_expressions_are_no_work_for_texts_that_they_do_not_read() {
    let usual = [
        "attributes.plan in ['free', 'trial']",
        "'user' in attributes",
        "hits % 2 < 2",
        "hits * 2 + 1 > 2",
        "size(attributes) > 1",
        "size(attributes.plan) > 1",
        "attributes.plan.startsWith('fr')",
        "attributes.plan != 'pro'",
    ];
    let limit = |at: usize| {
        let mut limit = limit(&format!("l{at}"), Algorithm::FixedWindow, 1000, 60_000, Consistency::Leased);
        limit.matches.when = Some(usual.join(" && "));
        limit
    };
    let mut dry_run =
        DryRun::new(Arc::new(compile((0..200).map(limit).collect()).unwrap()), StoreTime(1_700_000_000_000_000));
    let agent = "a".repeat(4000);
    let entries = [("user", "u"), ("plan", "free"), ("user_agent", agent.as_str())];
    let descriptor =
        Descriptor { entries: &entries, ordered: true, hits: 1, charging: Default::default(), limit: None };
    let decision = dry_run.check(&Check { domain: "d", descriptors: &[descriptor] }, 0).unwrap();
    assert!(decision.allowed && decision.limits.len() == 200, "{decision:?}");
}

#[test]
fn to_name_counters_by_long_values_is_work() {
    let of = |bytes: usize| {
        let mut dry_run = DryRun::new(Arc::new(compile(per_user(600)).unwrap()), StoreTime(1_700_000_000_000_000));
        let value = "u".repeat(bytes);
        let entries = [("user", value.as_str())];
        let descriptor =
            Descriptor { entries: &entries, ordered: true, hits: 1, charging: Default::default(), limit: None };
        dry_run.check(&Check { domain: "d", descriptors: &[descriptor] }, 0).unwrap()
    };
    assert!(of(1000).allowed && of(1500).allowed);
    assert!(of(4096).too_much_work);
}

#[test]
fn an_override_that_is_not_searched_for_does_not_change_the_denial() {
    let mut limit = on_path(0, Condition::Present(true));
    let change = on_path(0, Condition::Regex(SLOW_REGEX.to_owned()));
    limit.overrides = vec![Override { matches: change.matches, limit: Some(limit_of(0)), ..Override::default() }];
    assert!(decide_path(vec![limit.clone()], "/a").allowed);
    assert!(decide_path(vec![limit], &"ab".repeat(2048)).too_much_work);
}

#[test]
fn limits_that_replace_many_others_are_work() {
    // Each limit replaces all that come after it.
    let replacing = |count: usize| {
        let names: Vec<String> = (0..count).map(|at| format!("l{at}")).collect();
        let limits = per_user(count).into_iter().enumerate();
        limits.map(|(at, limit)| Limit { replaces: names[at + 1..].to_vec(), ..limit }).collect::<Vec<_>>()
    };
    assert_eq!(too_much(replacing(150)), None);
    assert!(too_much(replacing(250)).is_some(), "each replacement takes a step of 10 or more");
}

const fn limit_of(hits: u64) -> limiter::rules::Quota {
    limiter::rules::Quota::Hits(hits)
}
