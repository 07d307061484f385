//! The exact headers of decisions under whole rule files. Counters are empty at the first instant of 2026 in UTC.

use std::collections::BTreeMap;

use limiter::{Charging, Check, Descriptor, DryRun, Revision, StoreTime};

use super::*;
use crate::rulefile::decode::compile;

const NEW_YEAR: StoreTime = StoreTime(1_767_225_600_000_000);
const SECOND_US: u64 = 1_000_000;

/// Decides checks of `u1` in a domain with these limits. Each is an instant in seconds, and hits.
fn decide(limits: &[&str], checks: &[(u64, u32)]) -> Decision {
    let limits: String = limits.iter().map(|limit| format!("      - {{ {limit} }}\n")).collect();
    let rules = format!("version: 1\ndomains:\n  - domain: d\n    limits:\n{limits}");
    let mut dry_run = DryRun::new(Arc::new(compile("rules.yaml", &rules, Revision(1)).unwrap()), NEW_YEAR);
    let mut decide = |(second, hits): &(u64, u32)| {
        let descriptor = Descriptor {
            entries: &[("user", "u1")],
            ordered: false,
            hits: *hits,
            charging: Charging::IfAllowed,
            limit: None,
        };
        dry_run.check(&Check { domain: "d", descriptors: &[descriptor] }, second * SECOND_US).unwrap()
    };
    checks.iter().map(&mut decide).last().unwrap()
}

fn headers_of(decision: &Decision) -> BTreeMap<String, String> {
    let mut headers = HeaderMap::new();
    add(decision, &mut headers);
    headers.iter().map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned())).collect()
}

fn expect(decision: &Decision, expected: &[(&str, &str)]) {
    let expected = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    assert_eq!(headers_of(decision), expected);
}

const MINUTE: &str = "name: minute, per: [user], limit: 5, window: 1m, algorithm: fixed_window";
const HOUR: &str = "name: hour, per: [], limit: 6, window: 1h, algorithm: fixed_window";
const QUIET: &str = "name: quiet, per: [], limit: 2, window: 10s, algorithm: fixed_window, mode: shadow, \
                     response_headers: { x-quiet: a }";

#[test]
fn an_allowed_check_shows_what_is_left_and_when_the_limits_are_free() {
    expect(
        &decide(&[MINUTE, HOUR], &[(10, 2)]),
        &[
            ("ratelimit-policy", r#""minute";q=5;w=60, "hour";q=6;w=3600"#),
            ("ratelimit", r#""minute";r=3;t=50, "hour";r=4;t=3590"#),
            // 3 of 5 are a smaller part than 4 of 6.
            ("x-ratelimit-limit", "5"),
            ("x-ratelimit-remaining", "3"),
            ("x-ratelimit-reset", "50"),
        ],
    );
}

#[test]
fn a_denied_check_shows_the_longest_wait_at_every_limit_that_denies() {
    let both = [MINUTE, "name: five-an-hour, per: [], limit: 5, window: 1h, algorithm: fixed_window"];
    expect(
        &decide(&both, &[(10, 5), (20, 1)]),
        &[
            ("ratelimit-policy", r#""minute";q=5;w=60, "five-an-hour";q=5;w=3600"#),
            // The minute ends in 40 seconds, but asking then does not help.
            ("ratelimit", r#""minute";r=0;t=3580, "five-an-hour";r=0;t=3580"#),
            ("x-ratelimit-limit", "5"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "3580"),
            ("retry-after", "3580"),
        ],
    );
}

#[test]
fn a_limit_that_does_not_deny_shows_its_own_reset_beside_one_that_does() {
    expect(
        &decide(&[MINUTE, HOUR], &[(10, 5), (20, 1)]),
        &[
            ("ratelimit-policy", r#""minute";q=5;w=60, "hour";q=6;w=3600"#),
            ("ratelimit", r#""minute";r=0;t=40, "hour";r=1;t=3580"#),
            ("x-ratelimit-limit", "5"),
            ("x-ratelimit-remaining", "0"),
            ("x-ratelimit-reset", "40"),
            ("retry-after", "40"),
        ],
    );
}

#[test]
fn a_check_that_never_fits_has_no_retry_after() {
    expect(
        &decide(&[MINUTE], &[(10, 1), (20, 6)]),
        &[
            ("ratelimit-policy", r#""minute";q=5;w=60"#),
            ("ratelimit", r#""minute";r=4;t=40"#),
            ("x-ratelimit-limit", "5"),
            ("x-ratelimit-remaining", "4"),
            ("x-ratelimit-reset", "40"),
        ],
    );
}

#[test]
fn a_limit_in_mode_shadow_is_named_only_as_one_that_would_deny() {
    let of_minute = |left: &'static str, tight: &'static str| {
        [
            ("ratelimit-policy", r#""minute";q=5;w=60"#),
            ("ratelimit", left),
            ("x-ratelimit-limit", "5"),
            ("x-ratelimit-remaining", tight),
            ("x-ratelimit-reset", "60"),
        ]
    };
    expect(&decide(&[QUIET, MINUTE], &[(0, 2)]), &of_minute(r#""minute";r=3;t=60"#, "3"));
    let would_deny = [("x-tidegate-shadow", "quiet")];
    let expected = [&of_minute(r#""minute";r=2;t=60"#, "2")[..], &would_deny].concat();
    expect(&decide(&[QUIET, MINUTE], &[(0, 2), (0, 1)]), &expected);
    // Alone, it adds nothing but its name.
    expect(&decide(&[QUIET], &[(0, 1)]), &[]);
    expect(&decide(&[QUIET], &[(0, 3)]), &would_deny);
}

#[test]
fn an_unlimited_limit_has_no_numbers() {
    expect(&decide(&["name: all, per: [], limit: unlimited, window: 1m"], &[(0, 1)]), &[]);
}

#[test]
fn a_burst_and_a_window_below_a_second_are_shown_as_such() {
    let burst = "name: burst, per: [], limit: 10, burst: 30, window: 1m, algorithm: token_bucket";
    let brief = "name: brief, per: [], limit: 40, window: 250ms, algorithm: fixed_window";
    let odd = "name: odd, per: [], limit: 50, window: 1500ms, algorithm: fixed_window";
    let headers = headers_of(&decide(&[burst, brief, odd], &[(0, 10)]));
    // At 10 hits a minute, the whole bucket fills in three minutes, and 10 hits come back in one.
    assert_eq!(headers["ratelimit-policy"], r#""burst";q=30;w=180, "brief";q=40, "odd";q=50;w=2"#);
    assert_eq!(headers["ratelimit"], r#""burst";r=20;t=60, "brief";r=30;t=1, "odd";r=40;t=2"#);
}

#[test]
fn of_many_limits_those_that_deny_and_the_tightest_are_shown() {
    let limits: Vec<String> = (0..12)
        .map(|at| format!("name: l{at}, per: [], limit: {}, window: 1m, algorithm: fixed_window", 112 - at))
        .collect();
    let mut limits: Vec<&str> = limits.iter().map(String::as_str).collect();
    let shown = |decision: &Decision| -> Vec<String> {
        headers_of(decision)["ratelimit"].split(", ").map(|item| item.split('"').nth(1).unwrap().to_owned()).collect()
    };
    assert_eq!(
        shown(&decide(&limits, &[(0, 1)])),
        ["l11", "l10", "l9", "l8", "l7", "l6", "l5", "l4", "l3", "l2"],
        "ten limits with the smallest part left"
    );
    limits.push("name: denies, per: [user], limit: 0, window: 1m");
    assert_eq!(shown(&decide(&limits, &[(0, 1)]))[0], "denies");
}

#[test]
fn only_a_limit_that_denies_adds_its_headers() {
    let first = "name: first, per: [], limit: 1, window: 1m, algorithm: fixed_window, response_headers: { x-a: '1' }";
    let second = "name: second, per: [], limit: 9, window: 1m, algorithm: fixed_window, response_headers: { x-b: '2' }";
    let own = |checks: &[(u64, u32)]| {
        let headers = headers_of(&decide(&[first, second, QUIET], checks));
        headers.into_iter().filter(|(name, _)| ["x-a", "x-b", "x-quiet"].contains(&&**name)).collect::<Vec<_>>()
    };
    assert_eq!(own(&[(0, 1)]), []);
    assert_eq!(own(&[(0, 1), (0, 1)]), [("x-a".to_owned(), "1".to_owned())]);
    assert_eq!(own(&[(0, 10)]), [("x-a".to_owned(), "1".to_owned()), ("x-b".to_owned(), "2".to_owned())]);
}

#[test]
fn a_denial_without_limits_names_its_reason() {
    let unidentified = |problem| Decision::unidentified(None, Revision(1), problem);
    expect(
        &unidentified(IdentityProblem::UnknownKey),
        &[("x-tidegate-reason", "unknown_key"), ("www-authenticate", "ApiKey")],
    );
    // Another key would not help.
    expect(&unidentified(IdentityProblem::Unavailable), &[("x-tidegate-reason", "identity_unavailable")]);
    let unmatched = Decision { identity: None, ..unidentified(IdentityProblem::Conflict) };
    expect(&unmatched, &[("x-tidegate-reason", "no_limit_matches")]);
    expect(&Decision { too_much_work: true, ..unmatched.clone() }, &[("x-tidegate-reason", "too_much_work")]);
    expect(&Decision { allowed: true, ..unmatched }, &[]);
}
