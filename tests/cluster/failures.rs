//! Nodes and PostgreSQL servers that die, alone and in pairs.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::plane::Plane;
use crate::support::wait::{elapsed, wait_for};

fn rules(hits: u64) -> String {
    let limit = json!({ "name": "a", "per": ["user"], "limit": hits, "window": "1m" });
    json!({ "version": 1, "domains": [{ "domain": "api", "limits": [limit] }] }).to_string()
}

/// Makes an edit at any running node, and tries again until it is made. Returns its revision and how long it took.
fn edit(plane: &Plane, hits: u64) -> (u64, Duration) {
    let start = elapsed();
    let revision = wait_for("an edit", || {
        let running = (0..plane.seats.len()).filter(|at| plane.seats[*at].node.is_some());
        running.into_iter().find_map(|at| {
            let answer = plane.admin(at, "PUT /admin/v1/rules", &rules(hits));
            (answer.status == 200).then(|| answer.json()["revision"].as_u64().unwrap())
        })
    });
    (revision, elapsed() - start)
}

/// The limit that a check at a node shows.
fn shown(plane: &Plane, at: usize) -> u64 {
    let body = json!({ "domain": "api", "attributes": { "user": "u" }, "hits": 0 }).to_string();
    let answer = plane.node(at).check(&body);
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["limits"][0]["limit"].as_u64().unwrap()
}

/// Kills parts, makes edits meanwhile, brings the parts back, and checks that nothing committed is lost or reordered.
fn survive(plane: &mut Plane, what: &str, nodes: &[usize], kills_primary: bool, hits: &mut u64) {
    let before = plane.agree(0).0;
    for at in nodes {
        plane.kill(*at);
    }
    if kills_primary {
        let primary = plane.postgres.primary();
        plane.postgres.kill(primary);
        // By hand, as the runbook says.
        plane.postgres.promote(None);
    }
    let mut newest = before;
    *hits += 1;
    let (revision, back) = edit(plane, *hits);
    assert!(revision > newest, "{what}: {revision} after {newest}");
    newest = revision;
    for _ in 0..4 {
        *hits += 1;
        let (revision, _) = edit(plane, *hits);
        assert!(revision > newest, "{what}: {revision} after {newest}");
        newest = revision;
    }
    plane.agree(newest);
    for at in nodes {
        plane.launch(*at);
    }
    if kills_primary {
        plane.postgres.start_stopped_servers();
    }
    let (revision, _) = plane.agree(newest);
    assert_eq!(revision, newest, "{what}: nobody has edited");
    for at in 0..plane.seats.len() {
        wait_for("the last edit", || (shown(plane, at) == *hits).then_some(()));
    }
    println!("{what}: the first edit was in force {back:?} after the failure");
}

#[test]
fn nothing_committed_is_lost_when_nodes_and_servers_die() {
    let mut plane = Plane::start(3, 2);
    let mut hits = 1;
    plane.admin(0, "PUT /admin/v1/rules", &rules(hits));
    wait_for("the first rules", || (0..5).all(|at| plane.rules(at) == plane.rules(0)).then_some(()));
    let leader = |plane: &Plane| wait_for("a leader", || plane.leader());
    let voter = |leader: usize| (0..3).find(|at| *at != leader).unwrap();

    let at = leader(&plane);
    survive(&mut plane, "leader", &[at], false, &mut hits);
    let at = voter(leader(&plane));
    survive(&mut plane, "voter", &[at], false, &mut hits);
    survive(&mut plane, "learner", &[3], false, &mut hits);
    survive(&mut plane, "PostgreSQL's primary", &[], true, &mut hits);
    let at = leader(&plane);
    survive(&mut plane, "leader and learner", &[at, 4], false, &mut hits);
    let at = leader(&plane);
    survive(&mut plane, "leader and PostgreSQL's primary", &[at], true, &mut hits);
    let at = voter(leader(&plane));
    survive(&mut plane, "voter and learner", &[at, 3], false, &mut hits);
}

#[test]
fn a_minority_decides_with_its_rules_accepts_no_edits_and_catches_up() {
    let plane = Plane::start(3, 1);
    plane.admin(0, "PUT /admin/v1/rules", &rules(5));
    plane.agree(plane.rules(0).0);
    wait_for("the rules", || {
        (0..4).all(|at| plane.node(at).get("/ready").json()["rules_hash"] == plane.rules(0).1).then_some(())
    });
    // The voters 1 and 2 stand still, so that 0 and the learner 3 are a minority.
    for at in [1, 2] {
        plane.node(at).signal("STOP");
    }
    for at in [0, 3] {
        let refused = wait_for("a refused edit", || {
            let answer = plane.admin(at, "PUT /admin/v1/rules", &rules(6));
            (answer.status == 503).then_some(answer)
        });
        assert!(refused.body.contains("quorum"), "{refused:?}");
        assert_eq!(shown(&plane, at), 5);
    }
    for at in [1, 2] {
        plane.node(at).signal("CONT");
    }
    let (revision, _) = edit(&plane, 7);
    plane.agree(revision);
    for at in 0..4 {
        wait_for("the edit", || (shown(&plane, at) == 7).then_some(()));
    }
}

#[test]
fn a_region_restarts_and_decides_while_postgresql_is_away() {
    let mut plane = Plane::start(3, 1);
    let (revision, _) = edit(&plane, 5);
    let (_, hash) = plane.agree(revision);
    stop_postgres(&plane);
    refuses_edits(&plane, &rules(6));
    for at in 0..4 {
        plane.kill(at);
    }
    for at in 0..4 {
        plane.launch(at);
    }
    for at in 0..4 {
        wait_for("readiness", || (plane.node(at).get("/ready").status == 200).then_some(()));
        assert_eq!((shown(&plane, at), plane.rules(at)), (5, (revision, hash.clone())));
    }
    let (revision, _) = edit_when_postgres_is_back(&plane);
    plane.agree(revision);
}

#[test]
fn checks_pass_and_edits_get_a_clear_error_for_as_long_as_postgresql_is_away() {
    // In seconds: 3600 for a run by hand.
    let away = std::env::var("AWAY").ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(1);
    let away = Duration::from_secs(away);
    let plane = Plane::start_with(3, 1, "identity: { stale: 2h, ttl: 1s }");
    let rules_with_keys = |hits: u64| {
        let mut rules: Value = serde_json::from_str(&rules(hits)).unwrap();
        let limit = json!({ "name": "b", "per": ["api_key"], "limit": "unlimited", "window": "1m" });
        let keys = json!({ "domain": "keys", "identity": "key", "limits": [limit] });
        rules["domains"].as_array_mut().unwrap().push(keys);
        rules.to_string()
    };
    plane.admin(0, "PUT /admin/v1/rules", &rules_with_keys(5));
    let before = plane.agree(1);
    plane.command(0, &["users", "put", "alice"]);
    let key = plane.admin(0, "POST /admin/v1/users/alice/keys", "{}").json()["api_key"].clone();
    let with_key = json!({ "domain": "keys", "attributes": { "api_key": key } }).to_string();
    for at in 0..4 {
        wait_for("the new key", || (plane.node(at).check(&with_key).status == 200).then_some(()));
    }
    stop_postgres(&plane);
    let (end, mut checks, mut edits) = (elapsed() + away, 0_u64, 0_u64);
    while edits == 0 || elapsed() < end {
        for at in 0..4 {
            assert_eq!((shown(&plane, at), plane.rules(at)), (5, before.clone()));
            let answer = plane.node(at).check(&with_key);
            assert_eq!(answer.status, 200, "{answer:?}");
            checks += 2;
        }
        refuses_edits(&plane, &rules_with_keys(6));
        edits += 1;
    }
    println!("PostgreSQL was away for {away:?}: {checks} checks passed, {edits} edits got a clear error");
    let (revision, back) = edit_when_postgres_is_back(&plane);
    plane.agree(revision);
    println!("the first edit was made {back:?} after PostgreSQL came back");
}

/// Lets all PostgreSQL servers stand still.
fn stop_postgres(plane: &Plane) {
    for port in plane.postgres.ports() {
        plane.postgres.signal(port, "STOP");
    }
}

fn edit_when_postgres_is_back(plane: &Plane) -> (u64, Duration) {
    for port in plane.postgres.ports() {
        plane.postgres.signal(port, "CONT");
    }
    edit(plane, 8)
}

fn refuses_edits(plane: &Plane, rules: &str) {
    let answer = plane.admin(0, "PUT /admin/v1/rules", rules);
    assert!(answer.status == 503 || answer.status == 504, "{answer:?}");
    assert!(answer.body.contains("PostgreSQL"), "{answer:?}");
}
