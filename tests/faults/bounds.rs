//! `on_store_failure: local`: the number of hits that nodes admit without the store in the documented worst cases,
//! compared with the documented bound.

use crate::clients::LIMIT;
use crate::node::{Node, wait_for};
use crate::region::{CORES, NODES, Region};
use crate::servers::SingleServer;

/// The number of hits that one core may admit for a key that it has not seen.
const SHARE: usize = LIMIT / (CORES * NODES);

/// Uses up the limit of a user with the mode `local` at one node. See [`use_up_mode`].
fn use_up(node: &Node, user: &str) -> usize {
    use_up_mode(node, "local", user).0
}

/// Sends checks for one user until so many in a row are denied that every core denies. Returns the number of admitted
/// checks, and how many of them the node admitted without the store.
fn use_up_mode(node: &Node, mode: &str, user: &str) -> (usize, usize) {
    let body = format!(r#"{{"domain":"d","attributes":{{"mode":"{mode}","user":"{user}"}}}}"#);
    let (mut admitted, mut degraded, mut denied) = (0, 0, 0);
    while denied < 10 * CORES {
        let answer = node.check(&body);
        match answer.status {
            200 => {
                (admitted, denied) = (admitted + 1, 0);
                degraded += usize::from(answer.json()["degraded"] == true);
            }
            429 => denied += 1,
            _ => panic!("{answer:?}"),
        }
    }
    (admitted, degraded)
}

/// Starts two nodes and stops their only Redis server.
fn start_without_store(settings: &[(&str, &str)]) -> (SingleServer, Region) {
    let redis = SingleServer::start(&[]);
    let region = Region::start(&redis.url(), settings);
    redis.server.signal("STOP");
    (redis, region)
}

/// Prints a row of the table and checks the bound.
fn assert_bound(case: &str, admitted: usize, bound: usize) {
    println!("| {case} | {admitted} | {bound} |");
    assert!(admitted <= bound, "{case}: {admitted} admitted, the bound is {bound}");
}

#[test]
fn each_core_of_a_node_that_starts_during_an_outage_adds_a_share() {
    let (_redis, mut region) = start_without_store(&[]);
    println!("| `local`, a limit of {LIMIT}, the store is unavailable | admitted | bound |\n|---|---|---|");
    let mut all: usize = region.nodes.iter().map(|node| use_up(node, "u")).sum();
    assert_bound("the four cores that the divisor counts", all, LIMIT);
    assert!(all >= LIMIT - CORES * NODES, "the shares are used: {all} admitted");
    // A node that exits before it is ready decides nothing and adds no share.
    let more = region.start_node_at("more", [0, 0]);
    all += use_up(&more, "u");
    assert_bound("one more node of two cores", all, LIMIT + CORES * SHARE);
    for boot in 1..=2 {
        region.nodes[0].child.kill().unwrap();
        region.nodes[0].child.wait().unwrap();
        region.nodes[0] = region.start_node(0);
        all += use_up(&region.nodes[0], "u");
        let bound = LIMIT + (1 + boot) * CORES * SHARE;
        assert_bound(&format!("and a node that is killed and restarted, time {boot}"), all, bound);
        assert!(all + CORES >= bound, "the restarted node admits its shares, too: {all} admitted");
    }
}

#[test]
fn a_key_that_is_evicted_during_an_outage_adds_a_share() {
    const KEYS: usize = 64;
    let (_redis, region) = start_without_store(&[("TIDEGATE_LIMITS__MAX_KEYS", "64")]);
    println!(
        "| `local`, a limit of {LIMIT}, the store is unavailable, {KEYS} keys a node | admitted | bound |\n|---|---|---|"
    );
    let node = &region.nodes[0];
    let mut all = use_up(node, "u");
    assert_bound("one node", all, CORES * SHARE);
    for round in 1..=2 {
        let shed_before = node.metric(r#"tidegate_shed_total{reason="keys"} "#);
        for other in 0..4 * KEYS {
            let body = format!(r#"{{"domain":"d","attributes":{{"mode":"local","user":"{round}-{other}"}}}}"#);
            let status = node.check(&body).status;
            assert!([200, 429, 503].contains(&status), "{status}");
        }
        let shed = node.metric(r#"tidegate_shed_total{reason="keys"} "#) - shed_before;
        assert!(node.metric("tidegate_keys ") <= KEYS as f64, "the number of keys is bounded");
        all += use_up(node, "u");
        assert_bound(
            &format!("its keys replaced {} times, {shed} checks shed", 4 * round),
            all,
            CORES * SHARE * (1 + round),
        );
    }
}

#[test]
fn hits_admitted_without_the_store_are_charged_when_it_is_available_again() {
    let redis = SingleServer::start(&[]);
    let region = Region::start(&redis.url(), &[]);
    let [first, second] = &region.nodes[..] else { panic!("two nodes") };
    println!(
        "| a limit of {LIMIT}, of which one node admits its share without the store | admitted | bound |\n|---|---|---|"
    );
    for mode in ["local", "bucket"] {
        let peek = format!(r#"{{"domain":"d","attributes":{{"mode":"{mode}","user":"u"}},"hits":0}}"#);
        // Every core knows the store's clock. So batches that it sends during the outage are late when the store
        // continues.
        (0..10 * CORES).for_each(|_| assert_eq!(first.check(&peek).json()["degraded"], false));
        redis.server.signal("STOP");
        let (without_store, _) = use_up_mode(first, mode, "u");
        assert!(without_store >= CORES * SHARE - CORES, "{mode}: the share is used: {without_store} admitted");
        redis.server.signal("CONT");
        let decided = || Some(second.check(&peek).json()).filter(|answer| answer["degraded"] == false);
        let left = || decided()?["limits"][0]["remaining"].as_u64();
        wait_for("the debts to be charged", || left().filter(|left| *left <= (LIMIT - without_store) as u64));
        let (rest, degraded) = use_up_mode(second, mode, "u");
        let all = without_store + rest;
        // On a busy machine, the store may miss its deadline, which is an outage of its own.
        let case = format!(
            "{mode}: {without_store} of them without the store, then {degraded} without it and the rest with it"
        );
        assert_bound(&case, all, LIMIT + degraded);
        assert!(all >= LIMIT * 9 / 10, "{mode}: no more hits are charged than were admitted: {all} admitted");
    }
}

#[test]
fn a_node_that_exits_returns_its_leases_and_a_killed_node_does_not() {
    let redis = SingleServer::start(&[]);
    // The maximum lease of a core. A core takes another lease when it runs low. Leases are long in this test.
    const LEASE: usize = LIMIT / (2 * CORES * NODES);
    println!(
        "| a limit of {LIMIT}, a third of it used, and then the rest at another node | admitted | bound |\n|---|---|---|"
    );
    for (signal, user) in [("TERM", "left"), ("KILL", "killed")] {
        let mut region =
            Region::start(&redis.url(), &[("TIDEGATE_STORE__LEASE", "5s"), ("TIDEGATE_STORE__DEADLINE", "2s")]);
        let body = format!(r#"{{"domain":"d","attributes":{{"mode":"leased","user":"{user}"}}}}"#);
        let before = (0..LIMIT / 3).filter(|_| region.nodes[0].check(&body).status == 200).count();
        region.nodes[0].signal(signal);
        region.nodes[0].child.wait().unwrap();
        let all = before + use_up_mode(&region.nodes[1], "leased", user).0;
        assert_bound(&format!("SIG{signal} to the first node"), all, LIMIT);
        match signal {
            "TERM" => assert_eq!(all, LIMIT, "the leases were returned"),
            _ => assert!((LIMIT - 2 * CORES * LEASE..LIMIT).contains(&all), "only the leases are lost: {all} admitted"),
        }
    }
}

#[test]
fn checks_beyond_max_pending_are_shed_at_once() {
    // A long deadline, so that the waiting checks keep waiting.
    let (redis, region) =
        start_without_store(&[("TIDEGATE_LIMITS__MAX_PENDING", "8"), ("TIDEGATE_STORE__DEADLINE", "5s")]);
    let node = &region.nodes[0];
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let check = |index: usize| {
            let body = format!(r#"{{"domain":"d","attributes":{{"mode":"exact","user":"{index}"}}}}"#);
            scope.spawn(move || node.check(&body))
        };
        let checks: Vec<_> = (0..40).map(check).collect();
        let shed = || node.metric(r#"tidegate_shed_total{reason="waiting"} "#);
        wait_for("the rest to be shed", || (shed() >= 32.0).then_some(()));
        assert!(node.metric("tidegate_waiting_checks ") <= 8.0, "no more checks wait than the limit");
        redis.server.signal("CONT");
        checks.into_iter().map(|check| check.join().unwrap().status).collect()
    });
    let count = |status: u16| statuses.iter().filter(|s| **s == status).count();
    println!("40 checks where 8 may wait: {} were allowed, {} were shed", count(200), count(503));
    assert_eq!((count(200), count(503)), (8, 32), "the waiting checks are decided when the store continues");
    let body = r#"{"domain":"d","attributes":{"mode":"exact","user":"after"}}"#;
    wait_for("normal service", || (node.check(body).status == 200).then_some(()));
}
