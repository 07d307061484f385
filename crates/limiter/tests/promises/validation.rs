//! Which rules are valid: for each bound, the last value within it, and the error beyond it.

use std::sync::Arc;

use limiter::Revision;
use limiter::rules::{
    Algorithm, CalendarUnit, Condition, Consistency, Domain, GlobalStrategy, Identity, Limit, MAX_LIMIT, MAX_WINDOW_MS,
    Match, Mode, OnPartition, Override, Per, Period, Prefixes, Quota, RuleBook, Rules, Scope,
};

use crate::rules::limit;

fn valid(algorithm: Algorithm) -> Limit {
    let exact = limit("l", algorithm, 10, 60_000, Consistency::Exact);
    Limit { cells: None, ..exact }
}

/// The errors of some domains: the place within the domains, and the message.
fn errors_of(domains: Vec<Domain>) -> Vec<(String, String)> {
    let problems = RuleBook::compile(Arc::new(Rules { domains }), Revision(1)).err().unwrap_or_default();
    problems.into_iter().map(|problem| (problem.path.to_string(), problem.message)).collect()
}

/// Expects that a domain with these limits is valid.
fn expect_valid(limits: &[Limit]) {
    let domain = Domain { domain: "d".to_owned(), limits: limits.to_vec(), ..Domain::default() };
    assert_eq!(errors_of(vec![domain]), [], "{limits:?}");
}

/// Expects one error, at this place of the last limit.
fn expect_error(limits: &[Limit], place: &str, message: &str) {
    let domain = Domain { domain: "d".to_owned(), limits: limits.to_vec(), ..Domain::default() };
    let place = format!("domains[0].limits[{}].{place}", limits.len() - 1);
    assert_eq!(errors_of(vec![domain]), [(place, message.to_owned())], "{limits:?}");
}

fn fixed(change: impl Fn(&mut Limit)) -> Limit {
    let mut limit = valid(Algorithm::FixedWindow);
    change(&mut limit);
    limit
}

fn bucket(change: impl Fn(&mut Limit)) -> Limit {
    let mut limit = valid(Algorithm::TokenBucket);
    change(&mut limit);
    limit
}

#[test]
fn a_domain_has_a_name_of_its_own() {
    let domain = |name: &str| Domain { domain: name.to_owned(), ..Domain::default() };
    assert_eq!(errors_of(vec![domain("a"), domain("b"), domain(&"x".repeat(256))]), []);
    let error = |at: usize, message: &str| (format!("domains[{at}].domain"), message.to_owned());
    let bytes = "expected 1 to 256 bytes";
    assert_eq!(errors_of(vec![domain("")]), [error(0, bytes)]);
    assert_eq!(errors_of(vec![domain(&"x".repeat(257))]), [error(0, bytes)]);
    assert_eq!(errors_of(vec![domain("a"), domain("a")]), [error(1, "expected a domain that no other entry has")]);
}

#[test]
fn a_book_needs_api_keys_if_one_of_its_domains_does() {
    for (identity, needs) in [(Identity::Caller, false), (Identity::Key, true), (Identity::Either, true)] {
        let domain = |name: &str, identity| Domain { domain: name.to_owned(), identity, ..Domain::default() };
        let domains = vec![domain("a", Identity::Caller), domain("b", identity)];
        let book = RuleBook::compile(Arc::new(Rules { domains }), Revision(1)).unwrap();
        assert_eq!(book.uses_api_keys(), needs, "{identity:?}");
        assert_eq!((book.identity("a").identity, book.identity("b").identity), (Identity::Caller, identity));
        assert_eq!(book.identity("unknown").identity, Identity::Caller);
    }
}

#[test]
fn a_limit_has_a_plain_name_of_its_own() {
    let named = |name: &str| fixed(|limit| limit.name = name.to_owned());
    expect_valid(&[named("a-z_0-9"), named(&"x".repeat(64)), named("-")]);
    for name in ["", "Name", "a b", "a.b", "ä", &"x".repeat(65)] {
        expect_error(&[named(name)], "name", "expected 1 to 64 of a-z, 0-9, _ and -");
    }
    let twice = [named("a"), fixed(|limit| (limit.name, limit.period) = ("a".to_owned(), Period::Window { ms: 1000 }))];
    expect_error(&twice, "name", "expected a name that no other limit of the domain has");
}

#[test]
fn numbers_have_bounds() {
    let quota = format!("expected 0 to {MAX_LIMIT}, or unlimited");
    let hits = |hits| fixed(|limit| limit.limit = Quota::Hits(hits));
    expect_valid(&[hits(0)]);
    expect_valid(&[hits(MAX_LIMIT)]);
    expect_error(&[hits(MAX_LIMIT + 1)], "limit", &quota);

    let window = |ms| fixed(|limit| limit.period = Period::Window { ms });
    expect_valid(&[window(250)]);
    expect_valid(&[window(MAX_WINDOW_MS)]);
    assert_eq!(MAX_WINDOW_MS, 400 * 24 * 3_600_000, "400 days");
    expect_error(&[window(249)], "window", "expected 250ms to 400d");
    expect_error(&[window(MAX_WINDOW_MS + 1)], "window", "expected 250ms to 400d");

    let cells = |cells| Limit { cells: Some(cells), ..valid(Algorithm::RollingWindow) };
    expect_valid(&[cells(2)]);
    expect_valid(&[cells(20)]);
    expect_error(&[cells(1)], "cells", "expected 2 to 20");
    expect_error(&[cells(21)], "cells", "expected 2 to 20");

    let burst = |burst| bucket(|limit| limit.burst = Some(burst));
    expect_valid(&[burst(1)]);
    expect_error(&[burst(0)], "burst", &format!("expected 1 to {MAX_LIMIT}"));
    expect_error(
        &[bucket(|limit| (limit.limit, limit.burst) = (Quota::Unlimited, Some(MAX_LIMIT + 1)))],
        "burst",
        &format!("expected 1 to {MAX_LIMIT}"),
    );
}

#[test]
fn a_bucket_refills_within_ten_years() {
    // A hit a day: 3,650 of them take ten years.
    let burst = |burst| {
        bucket(|limit| {
            (limit.limit, limit.burst, limit.period) = (Quota::Hits(1), Some(burst), Period::Window { ms: 86_400_000 });
        })
    };
    expect_valid(&[burst(3650)]);
    expect_error(&[burst(3651)], "burst", "expected a burst that refills within 3650 days");
    // One that never grants never refills.
    let never = bucket(|limit| {
        (limit.limit, limit.burst, limit.period) = (Quota::Hits(0), Some(3651), Period::Window { ms: 86_400_000 });
    });
    expect_valid(&[never]);
}

#[test]
fn fields_belong_to_algorithms() {
    let cells = fixed(|limit| limit.cells = Some(4));
    expect_error(&[cells], "cells", "expected only with rolling_window");
    let burst = fixed(|limit| limit.burst = Some(4));
    expect_error(&[burst], "burst", "expected only with token_bucket");
    let leased = bucket(|limit| limit.consistency = Some(Consistency::Leased));
    expect_error(&[leased], "consistency", "expected exact: a token_bucket takes no leases");
    expect_valid(&[bucket(|limit| limit.consistency = Some(Consistency::Exact))]);

    let month = |zone: &str| Period::Calendar { unit: CalendarUnit::Month, time_zone: zone.to_owned() };
    expect_valid(&[fixed(|limit| limit.period = month("Europe/Paris"))]);
    let sliding = Limit { period: month("UTC"), ..valid(Algorithm::SlidingWindow) };
    expect_error(&[sliding], "calendar", "expected only with algorithm: fixed_window");
    let nowhere = fixed(|limit| limit.period = month("Europe/Nowhere"));
    let message = "expected an IANA time zone such as Europe/Paris, not \"Europe/Nowhere\"";
    expect_error(&[nowhere], "time_zone", message);
}

#[test]
fn regions_share_only_some_limits() {
    let gossip = Scope::Global(GlobalStrategy::Gossip { on_partition: OnPartition::Share });
    let escrow = Scope::Global(GlobalStrategy::Escrow);
    let month = Period::Calendar { unit: CalendarUnit::Month, time_zone: "UTC".to_owned() };
    let scoped = |algorithm, scope| Limit { scope, ..valid(algorithm) };
    for algorithm in [Algorithm::FixedWindow, Algorithm::SlidingWindow, Algorithm::RollingWindow] {
        expect_valid(&[scoped(algorithm, gossip)]);
    }
    expect_valid(&[scoped(Algorithm::FixedWindow, escrow)]);
    expect_valid(&[Limit { period: month.clone(), ..scoped(Algorithm::FixedWindow, escrow) }]);
    let only_gossip = "expected gossip: escrow supports only fixed_window and calendar";
    for algorithm in [Algorithm::SlidingWindow, Algorithm::RollingWindow] {
        expect_error(&[scoped(algorithm, escrow)], "global.strategy", only_gossip);
    }
    let calendar = Limit { period: month, ..scoped(Algorithm::FixedWindow, gossip) };
    expect_error(&[calendar], "global.strategy", "expected escrow: gossip does not support a calendar");
    for scope in [gossip, escrow] {
        let message = "expected region: a token_bucket cannot be global";
        expect_error(&[scoped(Algorithm::TokenBucket, scope)], "scope", message);
    }
}

#[test]
fn per_names_attributes_once() {
    let per = |names: &[&str]| fixed(|limit| limit.per = names.iter().map(|name| (*name).into()).collect());
    expect_valid(&[per(&["user", "path", "user#2"])]);
    expect_error(&[per(&["user", ""])], "per[1]", "expected an attribute name");
    let message = "expected an attribute name that occurs once: user#2 is a second entry with the key user";
    expect_error(&[per(&["user", "user"])], "per[1]", message);
    let prefixes = |v4, v6| {
        let per = Per { attribute: "ip".to_owned(), prefixes: Some(Prefixes { v4, v6 }) };
        fixed(|limit| limit.per = vec![per.clone()])
    };
    expect_valid(&[prefixes(32, 128)]);
    expect_error(&[prefixes(33, 128)], "per[0].ip.v4", "expected 0 to 32 bits");
    expect_error(&[prefixes(32, 129)], "per[0].ip.v6", "expected 0 to 128 bits");
}

#[test]
fn an_override_changes_something_that_its_limit_can_have() {
    let changed = |base: Limit, change: Override| Limit { overrides: vec![change], ..base };
    let one_of = "expected one of limit, burst, mode, on_store_failure, response_headers";
    expect_error(&[changed(valid(Algorithm::FixedWindow), Override::default())], "overrides[0]", one_of);
    let headers = [("x-plan".to_owned(), "free".to_owned())];
    for change in [
        Override { limit: Some(Quota::Hits(1)), ..Override::default() },
        Override { mode: Some(Mode::Off), ..Override::default() },
        Override { on_store_failure: Some(Default::default()), ..Override::default() },
        Override { response_headers: Some(headers.into()), ..Override::default() },
    ] {
        expect_valid(&[changed(valid(Algorithm::FixedWindow), change)]);
    }
    expect_valid(&[changed(valid(Algorithm::TokenBucket), Override { burst: Some(20), ..Override::default() })]);
    let burst = Override { burst: Some(20), ..Override::default() };
    let place = "overrides[0].burst";
    expect_error(&[changed(valid(Algorithm::FixedWindow), burst)], place, "expected only with token_bucket");
    let too_much = Override { limit: Some(Quota::Hits(MAX_LIMIT + 1)), ..Override::default() };
    let message = format!("expected 0 to {MAX_LIMIT}, or unlimited");
    expect_error(&[changed(valid(Algorithm::FixedWindow), too_much)], "overrides[0].limit", &message);
    // The burst of a limit is not that of an override that names another limit.
    let days = |hits| {
        let base = bucket(|limit| {
            (limit.limit, limit.burst, limit.period) =
                (Quota::Hits(100), Some(100_000), Period::Window { ms: 86_400_000 });
        });
        changed(base, Override { limit: Some(Quota::Hits(hits)), ..Override::default() })
    };
    expect_valid(&[days(1)]);
}

#[test]
fn a_limit_replaces_others_of_its_domain_without_cycles() {
    let replacing = |name: &str, replaces: &[&str]| {
        fixed(|limit| {
            limit.name = name.to_owned();
            limit.replaces = replaces.iter().map(|name| (*name).to_owned()).collect();
        })
    };
    expect_valid(&[replacing("a", &["b", "c"]), replacing("b", &["c"]), replacing("c", &[])]);
    let message = "expected the name of a limit of this domain, not \"x\"";
    expect_error(&[replacing("a", &["x"])], "replaces[0]", message);
    let cycle = "expected no cycle: a limit that this one replaces comes to replace it";
    expect_error(&[replacing("a", &["a"])], "replaces", cycle);
    expect_error(&[replacing("a", &["b"]), replacing("b", &["c"]), replacing("c", &["a"])], "replaces", cycle);
    // An override cannot switch off a limit that replaces others.
    let off = Override { mode: Some(Mode::Off), ..Override::default() };
    let switched = Limit { overrides: vec![off], ..replacing("b", &["a"]) };
    let message = "expected enforce or shadow where the limit has `replaces`";
    expect_error(&[replacing("a", &[]), switched], "overrides[0].mode", message);
}

#[test]
fn a_match_names_keys_and_conditions_that_can_hold() {
    let keys = |keys: &[&str]| {
        fixed(|limit| limit.matches.exact_keys = Some(keys.iter().map(|key| (*key).to_owned()).collect()))
    };
    expect_valid(&[keys(&["user", "user"])]);
    expect_error(&[keys(&[])], "exact_keys", "expected at least one attribute name");
    let numbered = "expected a key without a position: write user once for each entry";
    expect_error(&[keys(&["user", "user#2"])], "exact_keys[1]", numbered);
    let condition = |condition: Condition| {
        fixed(|limit| {
            limit.matches = Match { conditions: [("ip".to_owned(), condition.clone())].into(), ..Match::default() };
        })
    };
    expect_valid(&[condition(Condition::Cidr(vec!["10.0.0.0/8".to_owned()]))]);
    let domain = Domain {
        domain: "d".to_owned(),
        limits: vec![condition(Condition::Cidr(vec!["10.0.0.0/33".to_owned()]))],
        ..Domain::default()
    };
    let errors = errors_of(vec![domain]);
    assert_eq!((errors.len(), &*errors[0].0), (1, "domains[0].limits[0].match.ip"));
    let when = |source: &str| fixed(|limit| limit.matches.when = Some(source.to_owned()));
    expect_valid(&[when("hits > 1")]);
    let domain = Domain { domain: "d".to_owned(), limits: vec![when("hits >")], ..Domain::default() };
    assert_eq!(errors_of(vec![domain])[0].0, "domains[0].limits[0].when");
}

#[test]
fn response_headers_are_few_and_plain() {
    let headers = |headers: &[(&str, &str)]| {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        fixed(|limit| limit.response_headers = headers.clone().collect())
    };
    expect_valid(&[headers(&[("x-plan", "free ~!"), ("X_a", "")])]);
    // 16 headers, and 2,048 bytes.
    let many = |count: usize| {
        fixed(|limit| limit.response_headers = (0..count).map(|at| (format!("x-{at:02}"), "a".to_owned())).collect())
    };
    let most = "expected at most 16 headers with 2048 bytes in all";
    expect_valid(&[many(16)]);
    expect_error(&[many(17)], "response_headers", most);
    expect_valid(&[headers(&[("x-a", &"a".repeat(1021)), ("x-b", &"b".repeat(1021))])]);
    expect_error(&[headers(&[("x-a", &"a".repeat(1021)), ("x-b", &"b".repeat(1022))])], "response_headers", most);
    for name in ["", "a b", "a:"] {
        let place = format!("response_headers.{name}");
        expect_error(&[headers(&[(name, "a")])], &place, "expected an HTTP header name");
    }
    for value in ["\n", "\u{7f}", "é"] {
        expect_error(
            &[headers(&[("x-a", value)])],
            "response_headers.x-a",
            "expected a header value of printable ASCII",
        );
    }
    let twice = headers(&[("X-A", "1"), ("x-a", "2")]);
    let once = "expected each header once: case does not matter in their names";
    expect_error(&[twice], "response_headers.x-a", once);
    for (name, why) in [
        ("Connection", "it concerns one connection (RFC 9110, section 7.6.1)"),
        ("content-length", "it describes the body, which the node or the gateway writes"),
        ("Date", "whoever sends the response sets it"),
        ("retry-after", "the node sets it"),
        ("RateLimit-Policy", "the node sets it"),
        ("x-ratelimit-limit", "the node sets it"),
        ("x-accel-redirect", "nginx acts on it"),
    ] {
        let place = format!("response_headers.{name}");
        expect_error(&[headers(&[(name, "a")])], &place, &format!("expected a header that rules may set: {why}"));
    }
}
