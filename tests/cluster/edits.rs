//! Edits by SQL and by the API, on every node, in one order.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::node::{Node, send_to};
use crate::support::plane::Plane;
use crate::support::wait::{elapsed, wait_for};

/// The number of edits; 1,000 in a full run.
fn edits() -> u64 {
    std::env::var("EDITS").ok().and_then(|edits| edits.parse().ok()).unwrap_or(100)
}

/// Two limits that every edit changes together.
fn rules(hits: u64) -> String {
    let limit = |name: &str| json!({ "name": name, "per": ["user"], "limit": hits, "window": "1m" });
    json!({ "version": 1, "domains": [{ "domain": "api", "limits": [limit("a"), limit("b")] }] }).to_string()
}

/// The limits that a check shows. Panics if the check fails.
fn shown(http: &str) -> (u64, Vec<u64>) {
    let body = json!({ "domain": "api", "attributes": { "user": "u" }, "hits": 0 }).to_string();
    let answer = send_to(http, b"POST /v1/check HTTP/1.1\r\ncontent-type: application/json", &body);
    assert_eq!(answer.status, 200, "{answer:?}");
    let json = answer.json();
    let limits = json["limits"].as_array().unwrap().iter().map(|limit| limit["limit"].as_u64().unwrap());
    (json["revision"].as_u64().unwrap(), limits.collect())
}

/// When each node first had each revision or a later one, as its checks show.
type Seen = BTreeMap<u64, Duration>;

/// Asks one node until `stop`, and checks that it never fails, never shows half an edit, and never goes back.
fn watch(http: &str, stop: &AtomicBool) -> Seen {
    let mut seen = Seen::new();
    let mut newest = 0;
    while !stop.load(Ordering::Relaxed) {
        let (revision, limits) = shown(http);
        assert!(revision >= newest, "revision {revision} after {newest}");
        assert!(limits.len() == 2 && limits[0] == limits[1], "half an edit at {revision}: {limits:?}");
        if revision > newest {
            seen.insert(revision, elapsed());
            newest = revision;
        }
        std::thread::park_timeout(Duration::from_millis(2));
    }
    seen
}

fn percentile(sorted: &[Duration], part: f64) -> Duration {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a place")]
    let at = ((sorted.len() - 1) as f64 * part).round() as usize;
    sorted[at]
}

#[test]
fn every_node_has_every_edit_in_one_order_and_checks_never_see_half_of_one() {
    let plane = Plane::start(3, 6);
    let first = plane.admin(0, "PUT /admin/v1/rules", &rules(1)).json()["revision"].as_u64().unwrap();
    plane.agree(first);
    let stop = AtomicBool::new(false);
    let (committed, seen) = std::thread::scope(|scope| {
        let nodes: Vec<&str> = plane.seats.iter().map(|seat| &*seat.node.as_ref().unwrap().http).collect();
        let stop = &stop;
        let watchers: Vec<_> = nodes.into_iter().map(|http| scope.spawn(move || watch(http, stop))).collect();
        let mut committed: Vec<(u64, Duration)> = Vec::new();
        for edit in 0..edits() {
            let hits = 2 + edit;
            // Half by SQL, half by the API at one node after another.
            let revision = if edit % 2 == 0 {
                let text = plane.sql(&format!(
                    "UPDATE rate_limit_rules SET limit_hits = {hits} WHERE domain = 'api'; SELECT revision FROM config_revision"
                ));
                text.lines().last().unwrap().parse().unwrap()
            } else {
                let at = usize::try_from(edit).unwrap() % plane.seats.len();
                let answer = plane.admin(at, "PUT /admin/v1/rules", &rules(hits));
                assert_eq!(answer.status, 200, "{answer:?}");
                answer.json()["revision"].as_u64().unwrap()
            };
            committed.push((revision, elapsed()));
        }
        let last = committed.last().unwrap().0;
        plane.agree(last);
        wait_for("checks under the last rules", || {
            plane.seats.iter().all(|seat| shown(&seat.node.as_ref().unwrap().http).0 >= last).then_some(())
        });
        stop.store(true, Ordering::Relaxed);
        (committed, watchers.into_iter().map(|watcher| watcher.join().unwrap()).collect::<Vec<Seen>>())
    });
    let in_force = |(revision, at): &(u64, Duration)| {
        let each = seen.iter().map(|seen| *seen.range(revision..).next().expect("a node never showed the edit").1);
        each.max().unwrap().saturating_sub(*at)
    };
    let mut times: Vec<Duration> = committed.iter().map(in_force).collect();
    times.sort_unstable();
    println!(
        "{} edits, {} nodes: from the answer to the commit to in force on all nodes: p50 {:?}, p99 {:?}, most {:?}",
        times.len(),
        plane.seats.len(),
        percentile(&times, 0.5),
        percentile(&times, 0.99),
        times.last().unwrap(),
    );
    // The database, the API of every node and the books agree.
    let hits = 1 + edits();
    assert_eq!(plane.sql("SELECT DISTINCT limit_hits FROM rate_limit_rules"), hits.to_string());
    let books: Vec<Value> =
        (0..plane.seats.len()).map(|at| plane.admin(at, "GET /admin/v1/rules", "").json()["domains"].clone()).collect();
    assert!(books.iter().all(|book| *book == books[0]), "{books:?}");
}

#[test]
fn invalid_sql_is_refused_and_shown_and_later_edits_pass() {
    let plane = Plane::start(1, 1);
    plane.admin(0, "PUT /admin/v1/rules", &rules(1));
    // Valid for SQL, and no valid expression.
    plane.sql("UPDATE rate_limit_rules SET when_expression = 'hits >' WHERE name = 'a'");
    let rejected = |node: &Node| node.get("/ready").json()["rejected_rules"].clone();
    for at in 0..2 {
        let shown = wait_for("the refusal", || Some(rejected(plane.node(at))).filter(|shown| !shown.is_null()));
        assert!(shown["error"].as_str().unwrap().contains("when"), "{shown}");
        assert_eq!(plane.node(at).metric("tidegate_plane_refused_transactions "), 1.0);
    }
    let refused = wait_for("the table", || {
        Some(plane.sql("SELECT rows, errors FROM refused_changes")).filter(|rows| !rows.is_empty())
    });
    assert!(refused.contains("api/a"), "{refused}");
    // A setting that is refused is no reason to reject an edit of the rules.
    plane.sql("INSERT INTO cluster_settings (name, value) VALUES ('colour', '5000')");
    wait_for("two refusals", || (plane.node(0).metric("tidegate_plane_refused_transactions ") == 2.0).then_some(()));
    let limit = json!({ "per": ["user"], "limit": 3, "window": "1m" }).to_string();
    let answer = plane.admin(0, "PUT /admin/v1/domains/other/limits/c", &limit);
    assert_eq!(answer.status, 200, "{answer:?}");
    plane.sql("DELETE FROM cluster_settings");
    let good =
        plane.sql("UPDATE rate_limit_rules SET limit_hits = 7 WHERE name = 'b'; SELECT revision FROM config_revision");
    plane.agree(good.lines().last().unwrap().parse().unwrap());
    assert_eq!(shown(&plane.node(1).http).1, [1, 7]);
    plane.sql("UPDATE rate_limit_rules SET when_expression = NULL, limit_hits = 9 WHERE name = 'a'");
    wait_for("the mended rule", || (shown(&plane.node(1).http).1 == [9, 7]).then_some(()));
    wait_for("the empty table", || plane.sql("SELECT * FROM refused_changes").is_empty().then_some(()));
    wait_for("nothing refused", || rejected(plane.node(1)).is_null().then_some(()));
}

#[test]
fn rules_are_edited_by_the_api_after_a_transaction_that_is_too_large_to_follow() {
    let plane = Plane::start(1, 0);
    plane.admin(0, "PUT /admin/v1/rules", &rules(1));
    let text = plane.sql(
        "INSERT INTO users (user_id) SELECT 'user' || n FROM generate_series(1, 20001) AS n; \
         SELECT revision FROM config_revision",
    );
    let revision: u64 = text.lines().last().unwrap().parse().unwrap();
    wait_for("the large transaction", || {
        (plane.admin(0, "GET /admin/v1/cluster", "").json()["revision"].as_u64() >= Some(revision)).then_some(())
    });
    let answer = plane.admin(0, "PUT /admin/v1/rules", &rules(2));
    assert_eq!(answer.status, 200, "{answer:?}");
}
