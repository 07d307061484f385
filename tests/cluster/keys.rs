//! API keys: revoked everywhere, shown once, written nowhere.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::node::Response;
use crate::support::plane::Plane;
use crate::support::wait::{elapsed, wait_for};

const RULES: &str = "
version: 1
domains:
  - domain: api
    identity: key
    limits:
      - { name: gold, match: { tier: gold }, per: [user], limit: 1000000, window: 1m }
      - { name: others, match: { tier: { not: gold } }, per: [user, api_key], limit: unlimited, window: 1m }
";

fn revocations() -> usize {
    std::env::var("REVOCATIONS").ok().and_then(|count| count.parse().ok()).unwrap_or(10)
}

fn check(plane: &Plane, at: usize, key: &str) -> Response {
    plane.node(at).check(&json!({ "domain": "api", "attributes": { "api_key": key } }).to_string())
}

fn create(plane: &Plane, user: &str) -> (String, String) {
    let made = plane.admin(0, &format!("POST /admin/v1/users/{user}/keys"), "{}");
    assert!(made.status == 200 || made.status == 201, "{made:?}");
    let text = |field: &str| made.json()[field].as_str().unwrap().to_owned();
    (text("api_key"), text("key_id"))
}

fn reason(answer: &Response) -> Value {
    answer.json()["reason"].clone()
}

#[test]
fn a_revoked_key_is_rejected_on_every_node_and_keys_are_written_nowhere() {
    let plane = Plane::start(3, 3);
    plane.apply(0, RULES);
    plane.agree(plane.rules(0).0);
    plane.command(0, &["tiers", "put", "gold"]);
    plane.command(0, &["users", "put", "alice"]);
    let nodes = plane.seats.len();
    let keys: Vec<(String, String)> = (0..revocations()).map(|_| create(&plane, "alice")).collect();
    for (key, _) in &keys {
        for at in 0..nodes {
            // Once unknown and once known: the cache holds misses, too.
            wait_for("the new key", || (check(&plane, at, key).status == 200).then_some(()));
        }
    }
    let mut times: Vec<Duration> = Vec::new();
    for (key, id) in &keys {
        plane.command(1, &["keys", "revoke", id]);
        let start = elapsed();
        for at in 0..nodes {
            wait_for("the revocation", || (check(&plane, at, key).status == 401).then_some(()));
            assert_eq!(reason(&check(&plane, at, key)), "revoked_key");
        }
        times.push(elapsed() - start);
    }
    times.sort_unstable();
    println!(
        "{} revocations, {nodes} nodes: until every node rejects the key: p50 {:?}, most {:?}",
        times.len(),
        times[times.len() / 2],
        times[times.len() - 1]
    );

    let port = plane.postgres.primary();
    let dump = plane.postgres.shell(&format!("pg_dump -h 127.0.0.1 -p {port} -U postgres ratelimiter"));
    assert!(dump.contains(&keys[0].1), "the dump has the name of the key");
    let tables = plane.sql(
        "SELECT string_agg(row::text, E'\\n') FROM (SELECT to_jsonb(t)::text AS row FROM api_keys t \
         UNION ALL SELECT to_jsonb(t)::text FROM change_log t UNION ALL SELECT to_jsonb(t)::text FROM audit t) all_rows",
    );
    let mut everywhere =
        vec![("the dump".to_owned(), dump.into_bytes()), ("the tables".to_owned(), tables.into_bytes())];
    for (at, seat) in plane.seats.iter().enumerate() {
        let node = seat.node.as_ref().unwrap();
        everywhere.push((format!("the log of {}", seat.name), node.log().into_bytes()));
        everywhere.push((format!("the metrics of {}", seat.name), plane.node(at).get("/metrics").body.into_bytes()));
    }
    read_all(plane.folder(), &mut everywhere);
    read_all(&plane.postgres.folder(), &mut everywhere);
    for (place, bytes) in &everywhere {
        for (key, _) in &keys {
            let found = bytes.windows(key.len()).any(|window| window == key.as_bytes());
            assert!(!found, "{place} has a plain key");
        }
    }
    assert!(everywhere.iter().any(|(place, bytes)| place == "the tables" && bytes.len() > 1000));
}

/// Reads every file below `folder`.
fn read_all(folder: &Path, found: &mut Vec<(String, Vec<u8>)>) {
    for entry in std::fs::read_dir(folder).unwrap().flatten() {
        let path = entry.path();
        if path.is_dir() {
            read_all(&path, found);
        } else if let Ok(bytes) = std::fs::read(&path) {
            found.push((path.display().to_string(), bytes));
        }
    }
}

#[test]
fn a_changed_tier_and_a_rotated_key_count_at_once() {
    let plane = Plane::start(1, 1);
    plane.apply(0, RULES);
    plane.agree(plane.rules(0).0);
    for tier in ["gold", "free"] {
        plane.command(0, &["tiers", "put", tier]);
    }
    plane.command(0, &["users", "put", "bob", "--tier", "free"]);
    let (key, id) = create(&plane, "bob");
    let limits = |at: usize, key: &str| check(&plane, at, key).json()["limits"][0]["name"].clone();
    for at in 0..2 {
        wait_for("the first tier", || (limits(at, &key) == "others").then_some(()));
    }
    plane.command(0, &["users", "put", "bob", "--tier", "gold"]);
    for at in 0..2 {
        wait_for("the changed tier", || (limits(at, &key) == "gold").then_some(()));
    }
    let rotated = plane.command(0, &["keys", "rotate", &id, "--overlap", "1h", "--output", "json"]);
    let new = serde_json::from_str::<Value>(&rotated).unwrap()["api_key"].as_str().unwrap().to_owned();
    for at in 0..2 {
        wait_for("the new key", || (limits(at, &new) == "gold").then_some(()));
        assert_eq!(check(&plane, at, &key).status, 200, "both work until the overlap ends");
    }
    plane.sql("UPDATE api_keys SET expires_at = now() WHERE expires_at IS NOT NULL");
    for at in 0..2 {
        wait_for("the end of the old key", || (check(&plane, at, &key).status == 401).then_some(()));
        assert_eq!(reason(&check(&plane, at, &key)), "expired_key");
        assert_eq!(check(&plane, at, &new).status, 200);
    }
}

#[test]
fn known_keys_count_while_postgresql_is_away_and_strangers_do_not_reach_it() {
    let plane = Plane::start_with(1, 0, "identity: { lookups: 20, ttl: 100ms }");
    plane.apply(0, RULES);
    plane.command(0, &["users", "put", "carol"]);
    let (key, _) = create(&plane, "carol");
    // The look-up of another node's key: this node has only what the database says.
    wait_for("the key", || (check(&plane, 0, &key).status == 200).then_some(()));
    let lookups = || {
        let outcomes = ["found", "missed", "failed"];
        outcomes
            .map(|o| plane.node(0).metric(&format!("tidegate_identity_lookups_total{{outcome=\"{o}\"}} ")))
            .iter()
            .sum::<f64>()
    };
    let (before, start) = (lookups(), elapsed());
    for stranger in 0..1000 {
        let answer = check(&plane, 0, &format!("stranger-{stranger}"));
        assert!(["unknown_key", "identity_unavailable"].map(Value::from).contains(&reason(&answer)), "{answer:?}");
    }
    // The budget of a second at first, and that of each second that has passed.
    let budget = 20.0 * (2.0 + (elapsed() - start).as_secs_f64());
    assert!(lookups() - before <= budget, "{} look-ups, budget {budget}", lookups() - before);
    assert_eq!(check(&plane, 0, &key).status, 200, "a flood does not take the place of known keys");

    for port in plane.postgres.ports() {
        plane.postgres.signal(port, "STOP");
    }
    for _ in 0..20 {
        let answer = check(&plane, 0, &key);
        assert_eq!(answer.status, 200, "{answer:?}");
    }
    let unknown = wait_for("a key that cannot be looked up", || {
        let answer = check(&plane, 0, "never-seen");
        (reason(&answer) == "identity_unavailable").then_some(answer)
    });
    assert_eq!((unknown.status, unknown.json()["allowed"].clone()), (429, false.into()));
    for port in plane.postgres.ports() {
        plane.postgres.signal(port, "CONT");
    }
}
