//! An override counts in the counter of its limit or in its own, and inherits what it does not name.

use std::sync::Arc;

use limiter::rules::{
    Algorithm, ApplicableLimits, Condition, Consistency, Domain, EffectiveLimit, GlobalStrategy, Limit, Match, Mode,
    OnPartition, OnStoreFailure, Override, Quota, RuleBook, Rules, Scope,
};
use limiter::{Charging, Check, Descriptor, Revision};

use crate::dry_domain::{DryDomain, Entries, told};
use crate::rules::limit;

const ACME: Entries<'_> = &[("user", "acme")];
const ACME_PRO: Entries<'_> = &[("user", "acme"), ("tier", "pro")];
const BOB: Entries<'_> = &[("user", "bob")];
const BOB_PRO: Entries<'_> = &[("user", "bob"), ("tier", "pro")];

/// A limit of each user.
fn per_user(hits: u64) -> Limit {
    limit("l", Algorithm::FixedWindow, hits, 60_000, Consistency::Exact)
}

fn equal(conditions: &[(&str, &str)]) -> Match {
    let condition = |(name, value): &(&str, &str)| ((*name).to_owned(), Condition::Equal((*value).to_owned()));
    Match { conditions: conditions.iter().map(condition).collect(), ..Match::default() }
}

/// An override for the descriptors that have these attributes.
fn change(conditions: &[(&str, &str)], hits: u64) -> Override {
    Override { matches: equal(conditions), limit: Some(Quota::Hits(hits)), ..Override::default() }
}

fn book(limit: Limit, overrides: Vec<Override>) -> RuleBook {
    let domain = Domain { domain: "d".to_owned(), limits: vec![Limit { overrides, ..limit }], ..Domain::default() };
    RuleBook::compile(Arc::new(Rules { domains: vec![domain] }), Revision(1)).unwrap()
}

/// The limit that applies to a descriptor, and the name of its counter.
fn applied(book: &RuleBook, entries: Entries<'_>) -> (Arc<EffectiveLimit>, Vec<u8>) {
    let descriptor = Descriptor { entries, ordered: true, hits: 1, charging: Charging::IfAllowed, limit: None };
    let (mut found, mut name) = (ApplicableLimits::new(), Vec::new());
    let descriptors = [descriptor];
    book.applicable(&Check { domain: "d", descriptors: &descriptors }, &mut found);
    assert_eq!(found.len(), 1, "one limit applies to {entries:?}");
    found[0].key(&descriptors[0], false, &mut name);
    (Arc::clone(found[0].effective), name)
}

#[test]
fn an_override_shares_the_counter_unless_it_tests_what_does_not_name_it() {
    let named = |condition| Match { conditions: [("user".to_owned(), condition)].into(), ..Match::default() };
    let not_bob = Condition::Not(Box::new(Condition::Equal("bob".to_owned())));
    let when = Match { when: Some("attributes.user == 'acme'".to_owned()), ..Match::default() };
    let keys = Match { exact_keys: Some(vec!["user".to_owned(), "tier".to_owned()]), ..Match::default() };
    let shares = [
        ("the user", equal(&[("user", "acme")]), true),
        ("a part of the user", named(Condition::Prefix("ac".to_owned())), true),
        ("other users", named(not_bob), true),
        ("nothing", Match::default(), true),
        ("the tier", equal(&[("tier", "pro")]), false),
        ("the user and the tier", equal(&[("tier", "pro"), ("user", "acme")]), false),
        ("an expression", when, false),
        ("the keys", keys, false),
    ];
    let counter_without = applied(&book(per_user(10), Vec::new()), ACME_PRO).1;
    for (tests, matches, shared) in shares {
        let change = Override { matches, limit: Some(Quota::Hits(4)), ..Override::default() };
        let (effective, counter) = applied(&book(per_user(10), vec![change]), ACME_PRO);
        assert_eq!(effective.limit, 4, "{tests}");
        assert_eq!(counter == counter_without, shared, "{tests}");
    }
}

#[test]
fn an_override_of_a_limit_with_one_counter_has_its_own() {
    let one = Limit { per: Vec::new(), ..per_user(10) };
    let without = applied(&book(one.clone(), Vec::new()), ACME).1;
    let of_acme = book(one.clone(), vec![change(&[("user", "acme")], 4)]);
    assert_ne!(applied(&of_acme, ACME).1, without, "the counter of all would be charged with acme's limit");
    assert_eq!(applied(&of_acme, BOB).1, without);
    // Each override counts apart from the others.
    let two = book(one, vec![change(&[("user", "acme")], 4), change(&[("user", "bob")], 4)]);
    assert_eq!(applied(&two, ACME).1, applied(&of_acme, ACME).1);
    assert_ne!(applied(&two, ACME).1, applied(&two, BOB).1);
}

#[test]
fn hits_count_together_only_in_a_shared_counter() {
    let mut limit = per_user(3);
    limit.overrides = vec![change(&[("user", "acme")], 5), change(&[("tier", "pro")], 2)];
    let mut domain = DryDomain::with_limits(vec![limit]);
    // The first override that matches acme names only the user, so the tier of acme does not matter.
    assert_eq!(told(&domain.check(0, 2, &[ACME])), ["0 l 3/5"]);
    assert_eq!(told(&domain.check(0, 2, &[ACME_PRO])), ["0 l 1/5"]);
    assert_eq!(told(&domain.check(0, 2, &[ACME])), ["0 l 1/5 denies"]);
    // The hits of bob's pro tier count apart from his other hits.
    assert_eq!(told(&domain.check(0, 3, &[BOB])), ["0 l 0/3"]);
    assert_eq!(told(&domain.check(0, 2, &[BOB_PRO])), ["0 l 0/2"]);
    assert_eq!(told(&domain.check(0, 1, &[BOB, BOB_PRO])), ["0 l 0/3 denies", "1 l 0/2 denies"]);
    // Users without an override have counters of their own, too.
    assert_eq!(told(&domain.check(0, 1, &[&[("user", "eve"), ("tier", "pro")]])), ["0 l 1/2"]);
}

#[test]
fn an_override_has_what_it_does_not_name_from_its_limit() {
    let headers = |plan: &str| [("x-plan".to_owned(), plan.to_owned())].into();
    let base = Limit {
        burst: Some(30),
        overdraft: true,
        on_store_failure: OnStoreFailure::Deny,
        response_headers: headers("free"),
        ..limit("l", Algorithm::TokenBucket, 10, 60_000, Consistency::Exact)
    };
    let none = Override::default;
    let (enforce, deny) = (Mode::Enforce, OnStoreFailure::Deny);
    // The override, then limit, burst, mode, on_store_failure and the header that result.
    let table = [
        (Override { limit: Some(Quota::Hits(20)), ..none() }, 20, 20, enforce, deny, "free"),
        (Override { burst: Some(50), ..none() }, 10, 50, enforce, deny, "free"),
        (Override { limit: Some(Quota::Hits(20)), burst: Some(50), ..none() }, 20, 50, enforce, deny, "free"),
        (Override { mode: Some(Mode::Shadow), ..none() }, 10, 30, Mode::Shadow, deny, "free"),
        (
            Override { on_store_failure: Some(OnStoreFailure::Allow), ..none() },
            10,
            30,
            enforce,
            OnStoreFailure::Allow,
            "free",
        ),
        (Override { response_headers: Some(headers("gold")), ..none() }, 10, 30, enforce, deny, "gold"),
    ];
    for (change, hits, burst, mode, on_store_failure, plan) in table {
        let (effective, _) = applied(&book(base.clone(), vec![change.clone()]), ACME);
        assert_eq!((effective.limit, effective.rate.burst), (hits, burst), "{change:?}");
        assert_eq!((effective.mode, effective.on_store_failure), (mode, on_store_failure), "{change:?}");
        assert_eq!(effective.response_headers, headers(plan), "{change:?}");
        assert_eq!((effective.algorithm, effective.window_ms), (Algorithm::TokenBucket, 60_000), "{change:?}");
        assert!(effective.overdraft, "{change:?}");
    }
}

#[test]
fn only_the_first_override_that_matches_counts() {
    let quiet = Override { matches: equal(&[("user", "acme")]), mode: Some(Mode::Shadow), ..Override::default() };
    let (effective, _) = applied(&book(per_user(10), vec![quiet, change(&[("user", "acme")], 4)]), ACME);
    assert_eq!((effective.mode, effective.limit), (Mode::Shadow, 10), "the second override adds nothing");
}

#[test]
fn an_override_switches_a_limit_on_and_off() {
    let mode = |mode| Override { matches: equal(&[("user", "acme")]), mode: Some(mode), ..Override::default() };
    let switched = |base, by_override| Limit { mode: base, overrides: vec![mode(by_override)], ..per_user(1) };
    let mut off_for_acme = DryDomain::with_limits(vec![switched(Mode::Enforce, Mode::Off)]);
    assert_eq!(told(&off_for_acme.check(0, 1, &[ACME, BOB])), ["1 l 0/1"]);
    let mut on_for_acme = DryDomain::with_limits(vec![switched(Mode::Off, Mode::Enforce)]);
    assert_eq!(told(&on_for_acme.check(0, 1, &[ACME, BOB])), ["0 l 0/1"]);
}

#[test]
fn an_unlimited_override_never_denies_and_leaves_others_their_limit() {
    let matches = equal(&[("user", "acme")]);
    let change = Override { matches, limit: Some(Quota::Unlimited), ..Override::default() };
    let mut domain = DryDomain::with_limits(vec![Limit { overrides: vec![change], ..per_user(1) }]);
    for _ in 0..3 {
        let decision = domain.check(0, 5, &[ACME]);
        assert!(decision.allowed);
        assert_eq!(told(&decision), ["0 l unlimited/unlimited"]);
    }
    assert_eq!(told(&domain.check(0, 1, &[BOB])), ["0 l 0/1"]);
    assert!(!domain.check(0, 1, &[BOB]).allowed);
}

#[test]
fn regions_need_not_agree_about_an_override_without_a_limit() {
    let unlimited =
        Override { matches: equal(&[("user", "acme")]), limit: Some(Quota::Unlimited), ..Override::default() };
    let gossip = GlobalStrategy::Gossip { on_partition: OnPartition::Deny };
    for (strategy, on_partition, escrow) in
        [(gossip, Some(OnPartition::Deny), false), (GlobalStrategy::Escrow, None, true)]
    {
        let book = book(Limit { scope: Scope::Global(strategy), ..per_user(10) }, vec![unlimited.clone()]);
        let (of_bob, of_acme) = (applied(&book, BOB).0, applied(&book, ACME).0);
        assert_eq!((of_bob.on_partition(), of_bob.is_escrow()), (on_partition, escrow));
        assert_eq!((of_acme.on_partition(), of_acme.is_escrow()), (None, false));
    }
}
