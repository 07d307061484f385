//! `on_store_failure: local`: what nodes admit by themselves, in the worst cases that are stated, beside the stated bound.

use crate::alone;
use crate::crowd::LIMIT;
use crate::node::{Node, wait_for};
use crate::region::{CORES, NODES, Region};
use crate::servers::Single;

/// What one core may admit of a limit of which it knows nothing.
const SHARE: usize = LIMIT / (CORES * NODES);

/// Asks for one user until a node has refused so often that every core of it has.
fn ask(node: &Node, user: &str) -> usize {
    ask_of(node, "local", user)
}

fn ask_of(node: &Node, mode: &str, user: &str) -> usize {
    let body = format!(r#"{{"domain":"d","attributes":{{"mode":"{mode}","user":"{user}"}}}}"#);
    let (mut passed, mut refused) = (0, 0);
    while refused < 10 * CORES {
        let answer = node.check(&body);
        match answer.status {
            200 => (passed, refused) = (passed + 1, 0),
            429 => refused += 1,
            _ => panic!("{answer:?}"),
        }
    }
    passed
}

/// Two nodes that have just lost their only server.
fn lost(settings: &[(&str, &str)]) -> (Single, Region) {
    let redis = Single::start(&[]);
    let region = Region::start(&redis.url(), settings);
    redis.server.signal("STOP");
    (redis, region)
}

fn told(case: &str, measured: usize, bound: usize) {
    println!("| {case} | {measured} | {bound} |");
    assert!(measured <= bound, "{case}: {measured} of {bound}");
}

#[test]
fn nodes_that_come_in_an_outage_add_a_share_each() {
    let _alone = alone();
    let (_redis, mut region) = lost(&[]);
    println!("| `local`, a limit of {LIMIT}, the store is away | admitted | bound |\n|---|---|---|");
    let mut all: usize = region.nodes.iter().map(|node| ask(node, "u")).sum();
    told("four cores, which the divisor counts", all, LIMIT);
    assert!(all >= LIMIT - CORES * NODES, "shares are used: {all}");
    // What ends before it is ready has decided nothing, and adds nothing.
    let more = region.node_at("more", [0, 0]);
    all += ask(&more, "u");
    told("one pod more, of two cores", all, LIMIT + CORES * SHARE);
    for boot in 1..=2 {
        region.nodes[0].child.kill().unwrap();
        region.nodes[0].child.wait().unwrap();
        region.nodes[0] = region.node(0);
        all += ask(&region.nodes[0], "u");
        let bound = LIMIT + (1 + boot) * CORES * SHARE;
        told(&format!("and a node that is killed and started again, time {boot}"), all, bound);
        assert!(all + CORES >= bound, "what starts decides, too: {all}");
    }
}

#[test]
fn keys_that_memory_pressure_forgets_in_an_outage_add_a_share_each() {
    let _alone = alone();
    const KEYS: usize = 64;
    let (_redis, region) = lost(&[("TIDEGATE_LIMITS__MAX_KEYS", "64")]);
    println!(
        "| `local`, a limit of {LIMIT}, the store is away, {KEYS} keys a node | admitted | bound |\n|---|---|---|"
    );
    let node = &region.nodes[0];
    let mut all = ask(node, "u");
    told("one node", all, CORES * SHARE);
    for round in 1..=2 {
        let shed_before = node.metric(r#"tidegate_shed_total{reason="keys"} "#);
        for other in 0..4 * KEYS {
            let body = format!(r#"{{"domain":"d","attributes":{{"mode":"local","user":"{round}-{other}"}}}}"#);
            let status = node.check(&body).status;
            assert!([200, 429, 503].contains(&status), "{status}");
        }
        let shed = node.metric(r#"tidegate_shed_total{reason="keys"} "#) - shed_before;
        assert!(node.metric("tidegate_keys ") <= KEYS as f64, "memory is bounded");
        all += ask(node, "u");
        told(&format!("its keys rotated {} times, {shed} checks shed", 4 * round), all, CORES * SHARE * (1 + round));
    }
}

#[test]
fn what_nodes_admit_by_themselves_is_charged_when_the_store_is_back() {
    let _alone = alone();
    let redis = Single::start(&[]);
    let region = Region::start(&redis.url(), &[]);
    let [first, second] = &region.nodes[..] else { panic!("two nodes") };
    println!(
        "| a limit of {LIMIT}, of which one node admits its share without the store | admitted | bound |\n|---|---|---|"
    );
    for mode in ["local", "bucket"] {
        let peek = format!(r#"{{"domain":"d","attributes":{{"mode":"{mode}","user":"u"}},"hits":0}}"#);
        // Every core has heard the store's clock: what it sends later in vain is late when the store goes on.
        (0..10 * CORES).for_each(|_| assert_eq!(first.check(&peek).json()["degraded"], false));
        redis.server.signal("STOP");
        let alone = ask_of(first, mode, "u");
        assert!(alone >= CORES * SHARE - CORES, "{mode}: the share is used: {alone}");
        redis.server.signal("CONT");
        let decided = || Some(second.check(&peek).json()).filter(|answer| answer["degraded"] == false);
        let left = || decided()?["limits"][0]["remaining"].as_u64();
        wait_for("the debts", || left().filter(|left| *left <= (LIMIT - alone) as u64));
        let all = alone + ask_of(second, mode, "u");
        told(&format!("{mode}: {alone} of them alone, the rest with it"), all, LIMIT);
        assert!(all >= LIMIT * 9 / 10, "{mode}: no more is charged than was admitted: {all}");
    }
}

#[test]
fn tokens_of_a_node_that_leaves_go_back_and_of_one_that_is_killed_are_lost() {
    let _alone = alone();
    let redis = Single::start(&[]);
    // Of what is left a core takes no more than that in advance, and again when it runs low, and holds it for long.
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
        let all = before + ask_of(&region.nodes[1], "leased", user);
        told(&format!("SIG{signal} to the first"), all, LIMIT);
        match signal {
            "TERM" => assert_eq!(all, LIMIT, "what it held went back"),
            _ => assert!((LIMIT - 2 * CORES * LEASE..LIMIT).contains(&all), "it held something, and no more: {all}"),
        }
    }
}

#[test]
fn checks_beyond_the_bound_are_refused_at_once() {
    let _alone = alone();
    // Those that wait, wait for long.
    let (redis, region) = lost(&[("TIDEGATE_LIMITS__MAX_PENDING", "8"), ("TIDEGATE_STORE__DEADLINE", "5s")]);
    let node = &region.nodes[0];
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let ask = |at: usize| {
            let body = format!(r#"{{"domain":"d","attributes":{{"mode":"exact","user":"{at}"}}}}"#);
            scope.spawn(move || node.check(&body))
        };
        let asked: Vec<_> = (0..40).map(ask).collect();
        let shed = || node.metric(r#"tidegate_shed_total{reason="waiting"} "#);
        wait_for("the rest to be refused", || (shed() >= 32.0).then_some(()));
        assert!(node.metric("tidegate_waiting_checks ") <= 8.0, "no more wait than may");
        redis.server.signal("CONT");
        asked.into_iter().map(|one| one.join().unwrap().status).collect()
    });
    let of = |status: u16| statuses.iter().filter(|s| **s == status).count();
    println!("40 checks where 8 may wait: {} were allowed, {} told to come back", of(200), of(503));
    assert_eq!((of(200), of(503)), (8, 32), "those that waited are answered when the store is back");
    let body = r#"{"domain":"d","attributes":{"mode":"exact","user":"after"}}"#;
    wait_for("normal service", || (node.check(body).status == 200).then_some(()));
}
