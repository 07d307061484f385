//! `charge`: what is charged of a check with several descriptors, of which some have several limits.

use limiter::rules::{Algorithm, Charge, Condition, Consistency, Domain, Limit, Match, Quota};

use crate::dry_domain::{DryDomain, Entries, told};
use crate::rules::limit;
use crate::stories::{HOUR, check_times};
use crate::world::World;

const BOB: Entries<'_> = &[("user", "bob"), ("path", "/a")];
const EVE: Entries<'_> = &[("user", "eve"), ("path", "/a")];
const PATH: Entries<'_> = &[("path", "/a")];

/// A limit for each value of an attribute.
fn per(attribute: &str, hits: u64, window_ms: u64) -> Limit {
    let name = format!("per-{attribute}");
    Limit { per: vec![attribute.into()], ..limit(&name, Algorithm::FixedWindow, hits, window_ms, Consistency::Exact) }
}

/// At most 3 hits a second of each user, and 6 a minute of each path.
fn domain(charge: Charge) -> DryDomain {
    let limits = vec![per("user", 3, 1000), per("path", 6, 60_000)];
    DryDomain::new(Domain { charge, limits, ..Domain::default() })
}

#[test]
fn each_descriptor_is_charged_in_all_its_limits_or_in_none() {
    let mut domain = domain(Charge::Each);
    domain.check(0, 2, &[BOB]);
    // Bob's limit denies his descriptor, which is not charged to the path either. That of eve is charged.
    let decision = domain.check(0, 2, &[BOB, EVE]);
    assert!(!decision.allowed, "one descriptor is denied");
    assert_eq!(told(&decision), ["0 per-user 1/3 denies", "0 per-path 2/6", "1 per-user 1/3", "1 per-path 2/6"]);
    // Only the path is left to deny.
    let decision = domain.check(1_000_000, 3, &[BOB]);
    assert_eq!(told(&decision), ["0 per-user 3/3", "0 per-path 2/6 denies"]);
    assert_eq!(decision.retry_after, Some(59_000_000), "the minute ends later than the second");
    let decision = domain.check(1_000_000, 2, &[BOB]);
    assert!(decision.allowed);
    assert_eq!(told(&decision), ["0 per-user 1/3", "0 per-path 0/6"]);
}

#[test]
fn a_denied_check_is_charged_nowhere_without_charge_each() {
    let mut domain = domain(Charge::AllOrNothing);
    domain.check(0, 2, &[BOB]);
    assert!(!domain.check(0, 2, &[BOB, EVE]).allowed);
    let decision = domain.check(1_000_000, 3, &[EVE]);
    assert!(decision.allowed, "the path has 4 of its 6 hits left");
    assert_eq!(told(&decision), ["0 per-user 0/3", "0 per-path 1/6"]);
}

#[test]
fn descriptors_that_share_a_counter_are_charged_the_sum_or_one_after_another() {
    // As a whole, they ask for 8 of 6 hits.
    let mut whole = domain(Charge::AllOrNothing);
    assert!(!whole.check(0, 4, &[PATH, PATH]).allowed);
    assert_eq!(told(&whole.check(0, 2, &[PATH, PATH])), ["0 per-path 2/6", "1 per-path 2/6"]);
    // Each for itself, the first one fits.
    let mut each = domain(Charge::Each);
    let decision = each.check(0, 4, &[PATH, PATH]);
    assert!(!decision.allowed);
    assert_eq!(told(&decision), ["0 per-path 2/6", "1 per-path 2/6 denies"]);
    assert_eq!(told(&each.check(0, 2, &[PATH])), ["0 per-path 0/6"]);
}

#[test]
fn a_descriptor_that_no_limit_matches_passes_beside_others() {
    for charge in [Charge::AllOrNothing, Charge::Each] {
        let decision = domain(charge).check(0, 1, &[&[("host", "x")], PATH]);
        assert!(decision.allowed, "{charge:?}");
        assert_eq!(told(&decision), ["1 per-path 5/6"], "{charge:?}");
    }
}

#[test]
fn a_descriptor_without_hits_peeks_while_another_is_charged() {
    let mut domain = domain(Charge::Each);
    let decision = domain.check_hits(0, &[(BOB, 0), (EVE, 3)]);
    assert!(decision.allowed);
    assert_eq!(told(&decision), ["0 per-user 3/3", "0 per-path 3/6", "1 per-user 0/3", "1 per-path 3/6"]);
    let decision = domain.check_hits(0, &[(BOB, 2), (EVE, 0)]);
    assert!(!decision.allowed, "eve's next hit would not pass");
    assert_eq!(told(&decision), ["0 per-user 1/3", "0 per-path 1/6", "1 per-user 0/3 denies", "1 per-path 1/6"]);
}

#[test]
fn a_limit_that_denies_everything_denies_only_its_descriptors_with_charge_each() {
    let nobody = Limit {
        matches: Match {
            conditions: [("user".to_owned(), Condition::Equal("eve".to_owned()))].into(),
            ..Match::default()
        },
        limit: Quota::Hits(0),
        ..limit("nobody", Algorithm::FixedWindow, 0, 60_000, Consistency::Exact)
    };
    for (charge, left) in [(Charge::AllOrNothing, 3), (Charge::Each, 2)] {
        let limits = vec![per("user", 3, 60_000), nobody.clone()];
        let mut domain = DryDomain::new(Domain { charge, limits, ..Domain::default() });
        let decision = domain.check(0, 1, &[BOB, EVE]);
        assert!(!decision.allowed, "{charge:?}");
        assert_eq!(decision.retry_after, None, "{charge:?}: waiting cannot help");
        let denying: Vec<&str> =
            decision.limits.iter().filter(|limit| limit.denied).map(|limit| &*limit.effective.name).collect();
        assert_eq!(denying, ["nobody"], "{charge:?}");
        assert_eq!(told(&domain.check(0, 0, &[BOB])), [format!("0 per-user {left}/3")], "{charge:?}");
    }
}

#[test]
fn hits_that_a_lease_paid_go_back_to_the_holder_if_another_limit_denies() {
    let leased = limit("leased", Algorithm::FixedWindow, 1000, HOUR, Consistency::Leased);
    let mut world = World::new(1, vec![leased, limit("exact", Algorithm::FixedWindow, 30, HOUR, Consistency::Exact)]);
    assert_eq!(check_times(&mut world, 0, 30), 30);
    assert!(world.charged_hits(0) > 60, "the holder has a lease");
    world.check(0, 0, 1);
    world.deliver_batch(0, false);
    world.deliver_reply(0);
    assert_eq!(world.denied, 1);
    assert!(world.holders[0].shard.is_quiet(), "nothing is sent back to the store");
    world.end_leases();
    assert_eq!(world.charged_hits(0), 60);
}
