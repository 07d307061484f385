//! The exact answers of Envoy's call under whole rule files. Counters are empty at the first instant of 2026 in UTC.

use limiter::{Check, Descriptor, DryRun, Revision, StoreTime};
use proto::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;

use super::*;
use crate::rulefile::decode::compile;

const NEW_YEAR: StoreTime = StoreTime(1_767_225_600_000_000);

const RULES: &str = "
version: 1
domains:
  - domain: d
    charge: each
    limits:
      - { name: minute, per: [user], limit: 2, window: 1m, algorithm: fixed_window, response_headers: { x-plan: free } }
      - { name: hour, per: [user], limit: 3, window: 1h, algorithm: fixed_window }
      - { name: quiet, per: [user], limit: 1, window: 1m, algorithm: fixed_window, mode: shadow }
      - { name: all, match: { path: { present: true } }, per: [], limit: unlimited, window: 1m, algorithm: fixed_window }
";

/// The entries of a descriptor.
type Entries<'e> = &'e [(&'e str, &'e str)];

/// What an answer says of a descriptor: whether it passes, the name of the limit, what is left, and seconds.
type Said = (bool, Option<String>, u32, i64);

/// Answers checks of one hit, each at an instant in seconds. Returns the last answer.
fn answer_to(checks: &[(u64, &[Entries<'_>])]) -> RateLimitResponse {
    let mut dry_run = DryRun::new(Arc::new(compile("rules.yaml", RULES, Revision(1)).unwrap()), NEW_YEAR);
    let mut last = RateLimitResponse::default();
    for (second, descriptors) in checks {
        let descriptor =
            |entries| Descriptor { entries, ordered: true, hits: 1, charging: Charging::IfAllowed, limit: None };
        let descriptors: Vec<Descriptor<'_>> = descriptors.iter().map(|entries| descriptor(*entries)).collect();
        let check = Check { domain: "d", descriptors: &descriptors };
        last = answer(&dry_run.check(&check, second * 1_000_000).unwrap(), descriptors.len());
    }
    last
}

fn said(answer: &RateLimitResponse) -> Vec<Said> {
    let status = |status: &DescriptorStatus| {
        let name = status.current_limit.as_ref().map(|limit| limit.name.clone());
        let seconds = status.duration_until_reset.map_or(0, |duration| duration.seconds);
        (status.code() == Code::Ok, name, status.limit_remaining, seconds)
    };
    answer.statuses.iter().map(status).collect()
}

fn headers_of(answer: &RateLimitResponse) -> Vec<(&str, &str)> {
    answer.response_headers_to_add.iter().map(|header| (&*header.key, &*header.value)).collect()
}

const BOB: Entries<'_> = &[("user", "bob")];
const EVE: Entries<'_> = &[("user", "eve")];
const PATH: Entries<'_> = &[("path", "/")];

fn named(passes: bool, name: &str, left: u32, seconds: i64) -> Said {
    (passes, Some(name.to_owned()), left, seconds)
}

#[test]
fn each_descriptor_has_the_status_of_its_own_limits() {
    let answer = answer_to(&[(0, &[BOB]), (0, &[BOB]), (10, &[BOB, EVE, PATH, &[]])]);
    assert_eq!(
        said(&answer),
        [
            named(false, "minute", 0, 50),
            named(true, "minute", 1, 50),
            // An unlimited limit has no number, and a descriptor without limits has none.
            (true, None, u32::MAX, 50),
            (true, None, 0, 0),
        ]
    );
    assert_eq!(answer.overall_code(), Code::OverLimit);
    let expected = [("x-plan", "free"), ("retry-after", "50"), ("x-tidegate-shadow", "quiet")];
    assert_eq!(headers_of(&answer), expected);
    let limit = answer.statuses[0].current_limit.as_ref().unwrap();
    assert_eq!((limit.requests_per_unit, limit.unit(), limit.unit_multiplier), (2, Unit::Minute, None));
}

#[test]
fn the_limit_that_denies_longest_is_shown() {
    // The first two minutes take the 3 hits of the hour.
    let answer = answer_to(&[(0, &[BOB]), (0, &[BOB]), (60, &[BOB]), (130, &[BOB])]);
    assert_eq!(said(&answer), [named(false, "hour", 0, 3470)]);
    assert_eq!(headers_of(&answer), [("retry-after", "3470")]);
}

#[test]
fn a_limit_in_mode_shadow_is_named_in_a_header_and_shown_nowhere_else() {
    let answer = answer_to(&[(0, &[BOB]), (0, &[BOB])]);
    assert_eq!(answer.overall_code(), Code::Ok);
    assert_eq!(said(&answer), [named(true, "minute", 0, 60)], "the shadow limit has none left, too");
    assert_eq!(headers_of(&answer), [("x-tidegate-shadow", "quiet")]);
}
