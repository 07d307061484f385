//! Usage that is known only afterwards: it is charged even if it does not fit (`overdraft`), and hits that were charged
//! go back (a refund).

use proptest::prelude::*;

use crate::rules::limit;
use crate::stories::HOUR;
use crate::world::{World, proptest_config};
use limiter::Charging::{Always, IfAllowed, Refund};
use limiter::rules::{Algorithm, Consistency, Limit, OnStoreFailure, Quota};
use limiter::{Charging, Decision, Event, Ticket};

const ALGORITHMS: [Algorithm; 4] =
    [Algorithm::SlidingWindow, Algorithm::RollingWindow, Algorithm::FixedWindow, Algorithm::TokenBucket];

fn rule(name: &str, algorithm: Algorithm, hits: u64, overdraft: bool) -> Limit {
    Limit { overdraft, ..limit(name, algorithm, hits, HOUR, Consistency::Leased) }
}

/// Asks one check and delivers everything. Returns its decision.
fn ask(world: &mut World, hits: u32, charging: Charging) -> Decision {
    world.check_charging(0, 0, hits, charging);
    world.deliver_all();
    world.last_decision.clone().unwrap()
}

fn ask_holder(world: &mut World, holder: usize, hits: u32, charging: Charging) {
    world.check_charging(holder, 0, hits, charging);
    world.deliver_all();
}

/// Whether the check is allowed, and what is left of its limits.
fn told(decision: &Decision) -> (bool, Vec<u64>) {
    (decision.allowed, decision.limits.iter().map(|limit| limit.remaining.unwrap()).collect())
}

#[test]
fn usage_that_does_not_fit_is_denied_and_charged() {
    for algorithm in ALGORITHMS {
        // By a limit with overdraft, and by a check with overdraft.
        for (overdraft, charging) in [(true, IfAllowed), (false, Always)] {
            let mut world = World::new(1, vec![rule("bytes", algorithm, 1000, overdraft)]);
            assert_eq!(told(&ask(&mut world, 938, charging)), (true, vec![62]), "{algorithm:?}");
            assert_eq!(told(&ask(&mut world, 938, charging)), (false, vec![0]), "{algorithm:?}");
            assert_eq!(told(&ask(&mut world, 0, IfAllowed)), (false, vec![0]), "a peek shows it");
            assert_eq!(told(&ask(&mut world, 1, charging)), (false, vec![0]), "{algorithm:?}");
            match algorithm {
                // 877 hits are missing below empty, so the bucket is not empty any more when they have refilled.
                Algorithm::TokenBucket => assert_eq!(world.missing_hits(0), 1877),
                _ => assert_eq!(world.charged_hits(0), 1877),
            }
        }
    }
}

#[test]
fn a_check_that_does_not_fit_is_charged_nowhere_without_overdraft() {
    for algorithm in ALGORITHMS {
        let mut world = World::new(1, vec![rule("bytes", algorithm, 1000, false)]);
        ask(&mut world, 938, IfAllowed);
        assert_eq!(told(&ask(&mut world, 938, IfAllowed)), (false, vec![62]), "{algorithm:?}");
    }
}

#[test]
fn a_limit_with_overdraft_is_charged_unless_another_limit_denies() {
    for (a, b) in [(Algorithm::FixedWindow, Algorithm::TokenBucket), (Algorithm::TokenBucket, Algorithm::SlidingWindow)]
    {
        let mut world = World::new(1, vec![rule("bytes", a, 100, true), rule("requests", b, 30, false)]);
        assert_eq!(told(&ask(&mut world, 20, IfAllowed)), (true, vec![80, 10]));
        assert_eq!(
            told(&ask(&mut world, 20, IfAllowed)),
            (false, vec![80, 10]),
            "requests denies, so nothing is charged"
        );
        assert_eq!(told(&ask(&mut world, 20, IfAllowed)), (false, vec![80, 10]), "so does a denial that is remembered");
        // If only the limit with overdraft denies, it alone is charged.
        let mut world = World::new(1, vec![rule("bytes", a, 100, true), rule("requests", b, 1000, false)]);
        assert_eq!(told(&ask(&mut world, 90, IfAllowed)), (true, vec![10, 910]));
        assert_eq!(told(&ask(&mut world, 90, IfAllowed)), (false, vec![0, 910]));
        assert_eq!(told(&ask(&mut world, 1, IfAllowed)), (false, vec![0, 910]));
        // A check with overdraft charges every limit in any case.
        assert_eq!(told(&ask(&mut world, 900, Always)), (false, vec![0, 10]));
        assert_eq!(told(&ask(&mut world, 900, Always)), (false, vec![0, 0]));
    }
}

#[test]
fn two_limits_with_overdraft_are_both_charged_if_one_of_them_denies() {
    let limits = vec![rule("a", Algorithm::FixedWindow, 100, true), rule("b", Algorithm::TokenBucket, 50, true)];
    let mut world = World::new(1, limits);
    assert_eq!(told(&ask(&mut world, 60, IfAllowed)), (false, vec![40, 0]));
    // A limit of 0 has no counter. It denies, and the other is charged.
    let mut zero = rule("zero", Algorithm::FixedWindow, 0, true);
    zero.limit = Quota::Hits(0);
    let mut world = World::new(1, vec![zero, rule("b", Algorithm::FixedWindow, 50, true)]);
    assert_eq!(told(&ask(&mut world, 20, IfAllowed)), (false, vec![0, 30]));
}

#[test]
fn the_tokens_of_a_lease_pay_for_an_overdraft() {
    let mut world = World::new(1, vec![rule("bytes", Algorithm::FixedWindow, 1000, true)]);
    // A busy key holds tokens.
    for _ in 0..50 {
        ask(&mut world, 1, IfAllowed);
    }
    assert_eq!(told(&ask(&mut world, 2000, IfAllowed)), (false, vec![0]));
    world.end_leases();
    assert_eq!(world.charged_hits(0), 2050);
}

#[test]
fn usage_is_charged_even_if_its_caller_waits_no_more() {
    for algorithm in ALGORITHMS {
        let mut world = World::new(1, vec![rule("bytes", algorithm, 1000, true)]);
        ask(&mut world, 0, IfAllowed);
        world.check(0, 0, 10);
        world.send_batch(0);
        let now = world.node_now(0);
        let ticket = world.waiting_tickets(0)[0];
        let _ = world.holders[0].shard.handle(Event::Cancel(ticket), now);
        let _ = world.holders[0].shard.handle(Event::Cancel(Ticket(u64::MAX)), now);
        world.deliver_all();
        assert_eq!(told(&ask(&mut world, 0, IfAllowed)), (true, vec![990]), "{algorithm:?}");
    }
}

#[test]
fn overdrafts_of_an_outage_are_charged_afterwards() {
    for algorithm in ALGORITHMS {
        let mut rule = rule("bytes", algorithm, 300, true);
        rule.on_store_failure = OnStoreFailure::Local;
        let mut world = World::new(1, vec![rule]);
        world.check(0, 0, 250);
        world.fail_to_send(0);
        let decision = world.last_decision.clone().unwrap();
        assert!(decision.degraded && !decision.allowed, "{algorithm:?}: a third of 300 has no room for 250");
        world.advance(10_000);
        world.deliver_all();
        let left = told(&ask(&mut world, 0, IfAllowed)).1[0];
        assert!((50..=51).contains(&left), "{algorithm:?}: {left}");
    }
}

/// Two limits without a store: `bytes` with overdraft, and another.
fn two_in_an_outage(other: Limit) -> World {
    let mut bytes = rule("bytes", Algorithm::FixedWindow, 300, true);
    bytes.on_store_failure = OnStoreFailure::Local;
    World::new(1, vec![bytes, other])
}

#[test]
fn an_overdraft_is_not_charged_in_an_outage_if_another_limit_denies() {
    let mut world = two_in_an_outage(rule("requests", Algorithm::FixedWindow, 10, false));
    world.check(0, 0, 5);
    world.expire_all(0);
    assert!(!world.last_decision.clone().unwrap().allowed, "requests says deny");
    world.advance(400_000);
    world.deliver_all();
    assert_eq!(world.charged_hits_where(|_| true), 0, "bytes owes nothing");
}

#[test]
fn both_limits_with_overdraft_are_charged_in_an_outage() {
    let mut more = rule("more", Algorithm::FixedWindow, 30, true);
    more.on_store_failure = OnStoreFailure::Local;
    let mut world = two_in_an_outage(more);
    world.check(0, 0, 200);
    world.fail_to_send(0);
    assert!(!world.last_decision.clone().unwrap().allowed);
    world.advance(400_000);
    world.deliver_all();
    assert_eq!(world.charged_hits_where(|_| true), 400);
}

#[test]
fn the_limits_of_an_overdraft_are_asked_in_one_batch() {
    let names = ["a", "b", "c"];
    let limits = names.map(|name| rule(name, Algorithm::FixedWindow, 10, true)).to_vec();
    let mut world = World::new(1, limits);
    world.check(0, 0, 3);
    world.deliver_batch(0, false);
    world.deliver_reply(0);
    assert_eq!(told(&world.last_decision.clone().unwrap()), (true, vec![7, 7, 7]));
}

#[test]
fn usage_whose_reply_comes_late_is_charged_once() {
    for (on_store_failure, charged) in
        [(OnStoreFailure::Allow, 10), (OnStoreFailure::Deny, 10), (OnStoreFailure::Local, 10)]
    {
        let mut rule = rule("bytes", Algorithm::FixedWindow, 300, true);
        rule.on_store_failure = on_store_failure;
        let mut world = World::new(1, vec![rule]);
        world.check(0, 0, 10);
        world.send_batch(0);
        world.expire_all(0);
        world.deliver_all();
        assert_eq!(world.charged_hits(0), charged, "{on_store_failure:?}");
    }
}

#[test]
fn a_refund_gives_hits_back() {
    for algorithm in ALGORITHMS {
        let mut world = World::new(2, vec![rule("l", algorithm, 5, false)]);
        ask(&mut world, 3, IfAllowed);
        assert_eq!(told(&ask(&mut world, 1, Refund)), (true, vec![3]), "{algorithm:?}");
        assert_eq!(told(&ask(&mut world, 9, Refund)), (true, vec![5]), "never more than was used");
        ask(&mut world, 5, IfAllowed);
        assert!(!ask(&mut world, 1, IfAllowed).allowed);
        assert_eq!(told(&ask(&mut world, 2, Refund)), (true, vec![2]), "also when nothing is left");
        assert!(ask(&mut world, 2, IfAllowed).allowed, "a denial that is remembered does not outlast a refund");
    }
}

/// The store counts tokens that holders hold in advance as charged.
#[test]
fn refunds_take_back_no_tokens_that_others_hold() {
    for algorithm in ALGORITHMS {
        for rounds in [1, 5] {
            let mut world = World::new(2, vec![rule("l", algorithm, 100, false)]);
            for _ in 0..rounds {
                // A refund of far more hits than were made.
                (0..24).for_each(|_| ask_holder(&mut world, 0, 1, IfAllowed));
                ask_holder(&mut world, 1, 1_000_000, Refund);
            }
            world.admissions.clear();
            (0..300).for_each(|number| ask_holder(&mut world, number % 2, 1, IfAllowed));
            let admitted = world.admitted_hits(0);
            assert!(admitted <= 100, "{admitted} of 100 after the last of {rounds} refunds, as {algorithm:?}");
        }
    }
}

#[test]
fn a_refund_of_a_leased_limit_gives_back_what_its_core_admitted() {
    for algorithm in ALGORITHMS {
        let mut world = World::new(1, vec![rule("l", algorithm, 1000, false)]);
        for _ in 0..100 {
            ask(&mut world, 1, IfAllowed);
        }
        assert_eq!(told(&ask(&mut world, 40, Refund)), (true, vec![940]), "{algorithm:?}");
        assert_eq!(told(&ask(&mut world, 900, Refund)), (true, vec![1000]), "{algorithm:?}");
    }
}

#[test]
fn a_refund_whose_batch_runs_twice_counts_once() {
    for algorithm in ALGORITHMS {
        let mut world = World::new(1, vec![rule("l", algorithm, 5, false)]);
        ask(&mut world, 4, IfAllowed);
        world.check_charging(0, 0, 1, Refund);
        world.deliver_batch(0, true);
        world.deliver_all();
        assert_eq!(told(&ask(&mut world, 0, IfAllowed)), (true, vec![2]), "{algorithm:?}");
    }
}

proptest! {
    #![proptest_config(proptest_config())]

    /// A model of one counter in one window: a number.
    #[test]
    fn a_window_counts_what_its_checks_charge(
        most in 1u64..60,
        steps in prop::collection::vec((0usize..3, 0u32..40, prop::sample::select(vec![IfAllowed, Always, Refund])), 1..60),
    ) {
        // With leases, a refund takes back what its own core admitted.
        let consistency = Some(Consistency::Exact);
        let mut world = World::new(3, vec![Limit { consistency, ..rule("l", Algorithm::FixedWindow, most, false) }]);
        let mut used = 0;
        for (holder, hits, charging) in steps {
            world.check_charging(holder, 0, hits, charging);
            world.end_leases();
            let allowed = world.last_decision.as_ref().unwrap().allowed;
            let hits = u64::from(hits);
            let fits = used + hits.max(1) <= most;
            match charging {
                Refund => used -= hits.min(used),
                Always => used += hits,
                IfAllowed => used += if fits { hits } else { 0 },
            }
            prop_assert_eq!(allowed, fits || charging == Refund);
            prop_assert_eq!(world.charged_hits(0), used);
        }
    }
}
