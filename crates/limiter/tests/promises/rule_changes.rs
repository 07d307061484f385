//! Scenarios in which the rules change while tokens are held, remembered or in flight.

use crate::rules::{limit, rule_book};
use crate::stories::{HOUR, check_times, world};
use crate::world::World;
use limiter::rules::{Algorithm, Consistency, Diff, Limit};
use limiter::{Event, Revision};

#[test]
fn a_rule_change_ends_a_remembered_denial() {
    let mut world = world(1, 1, Consistency::Leased);
    assert_eq!(check_times(&mut world, 0, 3), 1);
    world.change_rules(vec![limit("l", Algorithm::FixedWindow, 3, HOUR, Consistency::Leased)]);
    assert_eq!(check_times(&mut world, 0, 5), 2, "a denial is remembered for its own revision only");
}

#[test]
fn what_was_left_of_the_old_limit_says_nothing_of_the_new_one() {
    let nobody = limit("nobody", Algorithm::FixedWindow, 0, HOUR, Consistency::Exact);
    let rules = |hits| vec![limit("l", Algorithm::FixedWindow, hits, HOUR, Consistency::Exact), nobody.clone()];
    let mut world = World::new(1, rules(10)[..1].to_vec());
    assert_eq!(check_times(&mut world, 0, 4), 4);
    // The other limit denies, so the store is not asked, and the answer says what the node knows.
    for (hits, left) in [(10, 6), (20, 20)] {
        world.change_rules(rules(hits));
        world.check(0, 0, 1);
        let decision = world.last_decision.take().unwrap();
        assert_eq!((decision.allowed, decision.limits[0].remaining), (false, Some(left)));
    }
}

#[test]
fn a_rule_change_keeps_what_was_seen_of_the_current_window() {
    let mut world = world(1, 10, Consistency::Exact);
    assert_eq!(check_times(&mut world, 0, 8), 8);
    world.change_rules(vec![limit("l", Algorithm::FixedWindow, 9, HOUR, Consistency::Exact)]);
    // The key gets its new limit while the store is not reachable. Then there are no checks for it.
    world.check(0, 0, 1);
    world.fail_to_send(0);
    (0..20).for_each(|_| world.advance(50_000));
    world.lose_data(true);
    assert_eq!(check_times(&mut world, 0, 9), 1, "the holder restores what it saw before the store grants anything");
}

#[test]
fn a_lease_of_the_old_rules_is_not_spent_under_the_new_rules() {
    let mut world = world(2, 100, Consistency::Leased);
    assert_eq!(check_times(&mut world, 0, 30), 30);
    world.check(1, 0, 0);
    world.deliver_all();
    assert!(world.charged_hits(0) > 30, "the first holder has a lease");
    world.change_rules(vec![limit("l", Algorithm::FixedWindow, 30, HOUR, Consistency::Leased)]);
    assert_eq!(check_times(&mut world, 0, 5) + check_times(&mut world, 1, 5), 0, "all 30 are used");
    world.end_leases();
    assert_eq!(world.charged_hits(0), 30, "the lease was returned");
}

#[test]
fn a_rule_change_returns_the_lease_of_an_idle_key() {
    let mut world = world(1, 100, Consistency::Leased);
    assert_eq!(check_times(&mut world, 0, 30), 30);
    world.change_rules(vec![limit("l", Algorithm::FixedWindow, 200, HOUR, Consistency::Leased)]);
    world.deliver_all();
    assert_eq!(world.charged_hits(0), 30, "the lease is returned at once, not at its end");
}

#[test]
fn a_lease_in_flight_during_a_rule_change_is_not_spent_under_the_new_rules() {
    let mut world = world(1, 100, Consistency::Leased);
    assert_eq!(check_times(&mut world, 0, 29), 29);
    // The lease ends, so that the next check asks the store and takes a new lease.
    world.end_leases();
    world.check(0, 0, 1);
    world.deliver_batch(0, false);
    world.change_rules(vec![limit("l", Algorithm::FixedWindow, 30, HOUR, Consistency::Leased)]);
    world.deliver_reply(0);
    assert!(world.charged_hits(0) > 30, "the old rules granted a lease");
    assert_eq!(check_times(&mut world, 0, 5), 0, "all 30 are used");
}

#[test]
fn hits_that_never_fit_a_bucket_are_denied_although_the_store_has_newer_rules() {
    let rules = |burst| {
        let bucket = limit("bucket", Algorithm::TokenBucket, 40, HOUR, Consistency::Exact);
        let window = limit("window", Algorithm::FixedWindow, 100, HOUR, Consistency::Exact);
        vec![window, Limit { burst: Some(burst), ..bucket }]
    };
    let mut world = World::new(2, rules(3));
    // The first holder gets the new rules earlier, and brings them to the store.
    let (book, now) = (rule_book(rules(40), Revision(2)), world.node_now(0));
    let _ = world.holders[0].shard.handle(Event::Rules(book), now);
    assert_eq!(check_times(&mut world, 0, 1), 1);
    world.check(1, 0, 5);
    world.deliver_all();
    let decision = world.last_decision.take().unwrap();
    assert_eq!((decision.allowed, decision.revision), (false, Revision(1)), "5 hits never fit a bucket of 3");
    assert_eq!((world.charged_hits(0), world.missing_hits(0)), (1, 1), "a denied check is charged nowhere");
}

#[test]
fn the_difference_of_two_books_names_what_was_added_removed_and_changed() {
    let rule = |name: &str, hits| limit(name, Algorithm::FixedWindow, hits, HOUR, Consistency::Exact);
    let before = rule_book(vec![rule("removed", 1), rule("kept", 1), rule("changed", 1)], Revision(1));
    let after = rule_book(vec![rule("changed", 2), rule("kept", 1), rule("added", 1)], Revision(2));
    let names = |name: &str| vec![format!("d/{name}")];
    let expected = Diff { added: names("added"), removed: names("removed"), changed: names("changed") };
    assert_eq!(before.diff(&after), expected);
    assert_eq!(after.diff(&after), Diff::default());
}
