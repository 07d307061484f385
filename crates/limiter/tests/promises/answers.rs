//! An answer says for each limit how long to wait, when it resets and how much is left, also for a limit in mode
//! `shadow`.

use limiter::rules::{
    Algorithm, CalendarUnit, Condition, Consistency, Domain, Limit, Match, Mode, Period, Quota, Unmatched,
};
use limiter::{Decision, IdentityProblem, Revision};

use crate::dry_domain::{DryDomain, Entries, SECOND_US, told};
use crate::rules::limit;

const BOB: Entries<'_> = &[("user", "bob")];

fn fixed(name: &str, hits: u64, seconds: u64) -> Limit {
    limit(name, Algorithm::FixedWindow, hits, seconds * 1000, Consistency::Exact)
}

fn shadow(limit: Limit) -> Limit {
    Limit { mode: Mode::Shadow, ..limit }
}

/// The wait of each limit that denied, in microseconds. `None` if no wait helps.
fn waits(decision: &Decision) -> Vec<(&str, Option<u64>)> {
    let denying = decision.limits.iter().filter(|limit| limit.denied);
    denying.map(|limit| (&*limit.effective.name, limit.retry_after)).collect()
}

/// Asks for `hits` at this second. Returns the wait of a denied check; `None` if it is allowed.
fn wait(domain: &mut DryDomain, second: u64, hits: u32) -> Option<u64> {
    let decision = domain.check(second * SECOND_US, hits, &[BOB]);
    assert!(decision.allowed || decision.retry_after.is_some(), "waiting helps");
    decision.retry_after
}

#[test]
fn a_denied_check_waits_for_the_limit_that_denies_longest() {
    let mut domain =
        DryDomain::with_limits(vec![fixed("minute", 2, 60), fixed("hour", 2, 3600), fixed("second", 2, 1)]);
    assert!(domain.check(3 * SECOND_US, 2, &[BOB]).allowed);
    let expected = |minute, hour, second| {
        vec![
            ("minute", Some(minute * SECOND_US)),
            ("hour", Some(hour * SECOND_US)),
            ("second", Some(second * SECOND_US)),
        ]
    };
    let decision = domain.check(3 * SECOND_US, 1, &[BOB]);
    assert_eq!(waits(&decision), expected(57, 3597, 1));
    assert_eq!(decision.retry_after, Some(3597 * SECOND_US));
    assert_eq!(&*decision.tightest().unwrap().effective.name, "hour", "the limit to show is the one with this wait");
    // After the second and the minute have ended, only the hour denies.
    let decision = domain.check(60 * SECOND_US, 1, &[BOB]);
    assert_eq!(waits(&decision), [("hour", Some(3540 * SECOND_US))]);
    assert_eq!(told(&decision)[2], "0 second 2/2");
}

#[test]
fn a_wait_that_is_remembered_becomes_shorter() {
    let mut domain = DryDomain::with_limits(vec![fixed("minute", 2, 60)]);
    assert_eq!(wait(&mut domain, 3, 2), None);
    assert_eq!(wait(&mut domain, 3, 1), Some(57 * SECOND_US));
    // The node remembers the denial for a second.
    let decision = domain.check(3_400_000, 1, &[BOB]);
    assert_eq!(decision.retry_after, Some(56_600_000));
    assert_eq!(decision.limits[0].reset, 56_600_000);
    assert_eq!(wait(&mut domain, 59, 1), Some(SECOND_US));
    assert_eq!(wait(&mut domain, 60, 1), None);
}

#[test]
fn a_denial_that_is_remembered_gives_more_hits_a_longer_wait() {
    let mut domain = DryDomain::with_limits(vec![limit("l", Algorithm::TokenBucket, 100, 60_000, Consistency::Exact)]);
    assert_eq!(wait(&mut domain, 10, 100), None);
    assert_eq!(wait(&mut domain, 20, 25), Some(5 * SECOND_US));
    // The node remembers the denial of 25 hits. It does not know when 26 fit, but when the bucket is full.
    let mut after_half_a_second = |hits| domain.check(20_500_000, hits, &[BOB]).retry_after;
    assert_eq!(after_half_a_second(25), Some(4_500_000));
    assert_eq!(after_half_a_second(26), Some(49_500_000));
    assert_eq!(after_half_a_second(101), None, "more than the bucket holds");
    assert_eq!(after_half_a_second(17), None, "17 hits are there, so the store allows them");
}

#[test]
fn no_wait_helps_if_one_limit_never_grants() {
    let table = [("a limit of 0", fixed("never", 0, 60)), ("more hits than the limit", fixed("never", 2, 60))];
    for (why, never) in table {
        let mut domain = DryDomain::with_limits(vec![fixed("minute", 5, 60), never]);
        let decision = domain.check(0, 3, &[BOB]);
        assert_eq!((decision.allowed, decision.retry_after), (false, None), "{why}");
        assert_eq!(waits(&decision), [("never", None)], "{why}");
        assert_eq!(&*decision.tightest().unwrap().effective.name, "never", "{why}");
        // Fewer hits fit the other limit: nothing was charged to it.
        assert_eq!(told(&decision)[0], "0 minute 5/5", "{why}");
    }
}

#[test]
fn each_algorithm_says_the_first_instant_at_which_hits_fit() {
    // A window of a minute and a limit of 100 that is used up at second 10. Then the waits for some hits at second 20.
    let table = [
        // The window ends at second 60.
        (Algorithm::FixedWindow, vec![(1, 40), (100, 40)]),
        // The last window weighs a half at second 90, and nothing at second 120.
        (Algorithm::SlidingWindow, vec![(50, 70), (100, 100)]),
        // 4 cells of 15 seconds: the first one is forgotten after five of them.
        (Algorithm::RollingWindow, vec![(1, 55), (100, 55)]),
        // 5 hits come in 3 seconds. 10 seconds have passed, and so 16 hits are there, and two thirds of another.
        (Algorithm::TokenBucket, vec![(20, 2), (25, 5), (100, 50)]),
    ];
    for (algorithm, waits) in table {
        for (hits, seconds) in waits {
            let mut domain = DryDomain::with_limits(vec![limit("l", algorithm, 100, 60_000, Consistency::Exact)]);
            assert_eq!(wait(&mut domain, 10, 100), None);
            assert_eq!(wait(&mut domain, 20, hits), Some(seconds * SECOND_US), "{algorithm:?}: {hits} hits");
            // One microsecond earlier it is denied, and then it is allowed.
            let fits_at = (20 + seconds) * SECOND_US;
            assert!(!domain.check(fits_at - 1, hits, &[BOB]).allowed, "{algorithm:?}: {hits} hits");
            assert!(domain.check(fits_at, hits, &[BOB]).allowed, "{algorithm:?}: {hits} hits");
        }
    }
}

#[test]
fn the_reset_is_the_time_until_the_whole_limit_is_free() {
    let table = [
        // The windows end at second 60, and the last cell counts until second 120.
        (Algorithm::FixedWindow, 50),
        (Algorithm::SlidingWindow, 110),
        // The cell that began at midnight is forgotten at second 75.
        (Algorithm::RollingWindow, 65),
        // 30 hits come back in 18 seconds.
        (Algorithm::TokenBucket, 18),
    ];
    for (algorithm, seconds) in table {
        let mut domain = DryDomain::with_limits(vec![limit("l", algorithm, 100, 60_000, Consistency::Exact)]);
        let decision = domain.check(10 * SECOND_US, 30, &[BOB]);
        assert_eq!(decision.limits[0].reset, seconds * SECOND_US, "{algorithm:?}");
        assert_eq!(told(&decision), ["0 l 70/100"], "{algorithm:?}");
        let decision = domain.check((10 + seconds) * SECOND_US, 0, &[BOB]);
        assert_eq!((decision.limits[0].reset, told(&decision)), (0, vec!["0 l 100/100".to_owned()]), "{algorithm:?}");
    }
}

#[test]
fn a_small_limit_waits_for_the_instant_at_which_a_hit_leaves_the_window() {
    for algorithm in [Algorithm::SlidingWindow, Algorithm::RollingWindow] {
        let mut domain = DryDomain::with_limits(vec![limit("l", algorithm, 2, 60_000, Consistency::Leased)]);
        assert_eq!(wait(&mut domain, 10, 1), None, "{algorithm:?}");
        assert_eq!(wait(&mut domain, 25, 1), None, "{algorithm:?}");
        assert_eq!(wait(&mut domain, 30, 1), Some(40 * SECOND_US), "{algorithm:?}: the first hit leaves at 70");
        assert!(!domain.check(70 * SECOND_US - 1, 1, &[BOB]).allowed, "{algorithm:?}");
        assert_eq!(wait(&mut domain, 70, 1), None, "{algorithm:?}");
        assert_eq!(wait(&mut domain, 71, 1), Some(14 * SECOND_US), "{algorithm:?}: the second hit leaves at 85");
    }
}

#[test]
fn a_calendar_window_ends_at_midnight_of_its_time_zone() {
    let day = Limit {
        period: Period::Calendar { unit: CalendarUnit::Day, time_zone: "Asia/Tokyo".to_owned() },
        ..fixed("day", 2, 60)
    };
    let mut domain = DryDomain::with_limits(vec![day]);
    // It is nine in the morning in Tokyo.
    assert_eq!(wait(&mut domain, 0, 2), None);
    assert_eq!(wait(&mut domain, 3600, 1), Some(14 * 3600 * SECOND_US));
    assert!(!domain.check(15 * 3600 * SECOND_US - 1, 1, &[BOB]).allowed);
    assert_eq!(wait(&mut domain, 15 * 3600, 2), None);
}

#[test]
fn a_limit_in_mode_shadow_reports_and_does_not_deny() {
    let mut domain = DryDomain::with_limits(vec![shadow(fixed("quiet", 2, 60)), fixed("loud", 5, 60)]);
    assert_eq!(told(&domain.check(0, 2, &[BOB])), ["0 quiet 0/2", "0 loud 3/5"]);
    let decision = domain.check(0, 1, &[BOB]);
    assert_eq!(told(&decision), ["0 quiet 0/2 would deny", "0 loud 2/5"]);
    assert!(decision.allowed);
    assert_eq!(decision.retry_after, None, "an allowed check has no wait");
    // The limit to show is one that can deny.
    assert_eq!(&*decision.tightest().unwrap().effective.name, "loud");
    let quiet = &decision.limits[0];
    assert!(quiet.shadow && !decision.limits[1].shadow);
    assert_eq!(quiet.retry_after, Some(60 * SECOND_US), "when the hit would have fitted");
    assert_eq!(quiet.shown_reset(), quiet.reset, "no caller needs to wait for it");
}

#[test]
fn a_limit_in_mode_shadow_is_charged_what_enforce_would_be_charged() {
    // The check that it would have denied is not charged to it.
    let mut domain = DryDomain::with_limits(vec![shadow(fixed("quiet", 3, 60))]);
    assert_eq!(told(&domain.check(0, 2, &[BOB])), ["0 quiet 1/3"]);
    assert_eq!(told(&domain.check(0, 2, &[BOB])), ["0 quiet 1/3 would deny"]);
    assert_eq!(told(&domain.check(0, 1, &[BOB])), ["0 quiet 0/3"]);
    // Neither is one that another limit denies.
    let mut domain = DryDomain::with_limits(vec![shadow(fixed("quiet", 3, 60)), fixed("loud", 1, 60)]);
    assert!(!domain.check(0, 2, &[BOB]).allowed);
    assert_eq!(told(&domain.check(0, 1, &[BOB])), ["0 quiet 2/3", "0 loud 0/1"]);
}

#[test]
fn a_wait_of_a_limit_in_mode_shadow_is_not_that_of_the_check() {
    let mut domain = DryDomain::with_limits(vec![shadow(fixed("quiet", 1, 3600)), fixed("loud", 1, 60)]);
    assert!(domain.check(0, 1, &[BOB]).allowed);
    let decision = domain.check(0, 1, &[BOB]);
    assert_eq!(waits(&decision), [("quiet", Some(3600 * SECOND_US)), ("loud", Some(60 * SECOND_US))]);
    assert_eq!(decision.retry_after, Some(60 * SECOND_US));
    // Nor does it matter that a shadow limit never grants.
    let mut domain = DryDomain::with_limits(vec![shadow(fixed("quiet", 0, 60)), fixed("loud", 1, 60)]);
    assert!(domain.check(0, 1, &[BOB]).allowed);
    assert_eq!(domain.check(0, 1, &[BOB]).retry_after, Some(60 * SECOND_US));
}

#[test]
fn the_limit_to_show_is_the_one_with_the_smallest_part_left() {
    let mut unlimited = fixed("unlimited", 1, 60);
    unlimited.limit = Quota::Unlimited;
    let mut limits =
        vec![unlimited, fixed("of-ten", 10, 60), fixed("of-hundred", 100, 60), shadow(fixed("quiet", 8, 60))];
    let shown = |limits: &[Limit]| {
        let decision = DryDomain::with_limits(limits.to_vec()).check(0, 8, &[BOB]);
        decision.tightest().unwrap().effective.name.to_string()
    };
    // 2 of 10 are left, and 92 of 100.
    assert_eq!(shown(&limits), "of-ten");
    limits.reverse();
    assert_eq!(shown(&limits), "of-ten", "in any order");
    // If the same part of two limits is left, the first one is shown.
    let mut domain = DryDomain::with_limits(vec![fixed("first", 10, 60), fixed("second", 10, 60)]);
    assert_eq!(&*domain.check(0, 1, &[BOB]).tightest().unwrap().effective.name, "first");
    let mut unlimited = fixed("unlimited", 1, 60);
    unlimited.limit = Quota::Unlimited;
    let mut domain = DryDomain::with_limits(vec![unlimited]);
    assert!(domain.check(0, 1, &[BOB]).tightest().is_none(), "an unlimited limit is never shown");
}

#[test]
fn a_burst_above_the_limit_is_shown_with_the_time_in_which_it_fills() {
    let bucket = |hits, burst| Limit { burst, ..limit("l", Algorithm::TokenBucket, hits, 60_000, Consistency::Exact) };
    // The limit and the burst; then the limit that is shown, and its window in milliseconds.
    for (hits, burst, shown, window_ms) in [
        (0, None, 0, 60_000),
        (10, None, 10, 60_000),
        (10, Some(25), 25, 150_000),
        (7, Some(10), 10, 85_715),
        (10, Some(5), 10, 60_000),
    ] {
        let decision = DryDomain::with_limits(vec![bucket(hits, burst)]).check(0, 0, &[BOB]);
        let limit = &decision.limits[0];
        assert_eq!((limit.limit(), limit.window_ms()), (Some(shown), window_ms), "{hits} {burst:?}");
        assert_eq!(limit.remaining, Some(burst.unwrap_or(hits)), "{hits} {burst:?}");
    }
}

#[test]
fn a_window_limit_is_shown_as_it_is_written() {
    let month = Period::Calendar { unit: CalendarUnit::Month, time_zone: "UTC".to_owned() };
    for (period, window_ms) in [
        (Period::Window { ms: 250 }, 250),
        (Period::Window { ms: 86_400_000 }, 86_400_000),
        (month, 30 * 86_400_000),
        (Period::Calendar { unit: CalendarUnit::Hour, time_zone: "UTC".to_owned() }, 3_600_000),
        (Period::Calendar { unit: CalendarUnit::Day, time_zone: "UTC".to_owned() }, 86_400_000),
        (Period::Calendar { unit: CalendarUnit::Week, time_zone: "UTC".to_owned() }, 7 * 86_400_000),
        (Period::Calendar { unit: CalendarUnit::Year, time_zone: "UTC".to_owned() }, 365 * 86_400_000),
    ] {
        let mut domain = DryDomain::with_limits(vec![Limit { period: period.clone(), ..fixed("l", 9, 1) }]);
        let decision = domain.check(0, 1, &[BOB]);
        assert_eq!((decision.limits[0].limit(), decision.limits[0].window_ms()), (Some(9), window_ms), "{period:?}");
    }
}

#[test]
fn a_check_that_no_limit_matches_is_decided_by_the_domain() {
    let matches = Match { conditions: [("tier".to_owned(), Condition::Present(true))].into(), ..Match::default() };
    for (default, allowed) in [(Unmatched::Allow, true), (Unmatched::Deny, false)] {
        let limits = vec![Limit { matches: matches.clone(), ..fixed("l", 9, 60) }];
        let mut domain = DryDomain::new(Domain { default, limits, ..Domain::default() });
        let decision = domain.check(0, 1, &[BOB]);
        assert_eq!((decision.allowed, decision.retry_after, told(&decision)), (allowed, None, vec![]), "{default:?}");
        let matched = domain.check(0, 1, &[BOB, &[("user", "bob"), ("tier", "pro")]]);
        assert!(matched.allowed, "{default:?}: a limit matches one descriptor");
    }
}

#[test]
fn a_caller_that_is_not_known_is_denied_and_told_why() {
    let table = [
        (IdentityProblem::MissingKey, "missing_key", true),
        (IdentityProblem::UnknownKey, "unknown_key", true),
        (IdentityProblem::ExpiredKey, "expired_key", true),
        (IdentityProblem::RevokedKey, "revoked_key", true),
        // Another key does not help.
        (IdentityProblem::Conflict, "conflicting_identity", false),
        (IdentityProblem::Unavailable, "identity_unavailable", false),
    ];
    for (problem, word, unauthorized) in table {
        let decision = Decision::unidentified(Some("d".into()), Revision(7), problem);
        assert_eq!((decision.allowed, decision.identity), (false, Some(problem)));
        assert_eq!((decision.revision, decision.retry_after, told(&decision)), (Revision(7), None, vec![]));
        assert_eq!((problem.as_str(), problem.is_unauthorized()), (word, unauthorized));
    }
}
