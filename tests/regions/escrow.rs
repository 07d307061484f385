//! `scope: global` with `strategy: escrow`.

use serde_json::{Value, json};

use crate::support::servers::{redis_cli, wait_for};
use crate::world::{Setup, World, allowed};

const LIMIT: u64 = 100;
/// A window lasts so long. Rights are spent only in windows that begin after a store has begun.
const WINDOW_S: u64 = 20;

fn rules() -> String {
    let limit = json!({ "name": "everywhere", "per": ["user"], "limit": LIMIT, "window": format!("{WINDOW_S}s"),
        "algorithm": "fixed_window", "consistency": "exact", "scope": "global", "global": { "strategy": "escrow" } });
    json!({ "version": 1, "domains": [{ "domain": "api", "limits": [limit] }] }).to_string()
}

fn world(regions: usize) -> World {
    World::start(&Setup { regions, ..Setup::new(rules()) })
}

fn answer(world: &World, region: usize, hits: u64) -> Value {
    world.check(region, "api", hits).json()
}

/// Waits for a window in which every region has its part, and which lasts long enough for a test.
fn wait_for_window(world: &World) {
    let parts: u64 = LIMIT / world.regions.len() as u64;
    wait_for("a new window", || {
        let fresh = |region: usize| {
            let limit = answer(world, region, 0)["limits"][0].clone();
            limit["remaining"].as_u64().is_some_and(|left| left >= parts && left <= parts + 1)
        };
        let time = redis_cli(world.regions[0].redis.server.port, &["time"]);
        let second: u64 = time.lines().next()?.parse().ok()?;
        (second % WINDOW_S < WINDOW_S / 4 && (0..world.regions.len()).all(fresh)).then_some(())
    });
}

/// Spends hits of a region one by one. Waits after a denial until more rights come, as long as fewer than `expected`
/// hits were admitted. Then it goes on for a while. Returns the hits that were admitted.
fn spend(world: &World, region: usize, expected: u64) -> u64 {
    let mut admitted = 0;
    wait_for("the rights of other regions", || {
        admitted += u64::from(allowed(&world.check(region, "api", 1)));
        (admitted >= expected).then_some(())
    });
    admitted + (0..200).filter(|_| allowed(&world.check(region, "api", 1))).count() as u64
}

#[test]
fn rights_follow_the_demand_and_never_exceed_the_limit() {
    let world = world(3);
    wait_for_window(&world);
    let admitted = [(0, LIMIT), (1, 0), (2, 0)].map(|(region, all)| spend(&world, region, all));
    assert_eq!(admitted, [LIMIT, 0, 0], "the first region gets all rights that the others do not use");
    let taken = world.node(0).metric("tidegate_rights_taken_total{region=\"eu\"} ");
    assert!(taken > 0.0, "{taken}");
    assert_eq!(world.node(1).metric("tidegate_rights_best_effort "), 1.0, "the store has no replica");
    assert!(world.node(1).get("/readyz").body.contains("escrow are best effort"));
}

#[test]
fn a_region_that_is_cut_off_spends_the_rights_that_it_holds() {
    let world = world(2);
    world.cut("us", "eu", true);
    world.cut("eu", "us", true);
    world.wait_until_partitioned(true);
    wait_for_window(&world);
    assert_eq!([0, 1].map(|region| spend(&world, region, LIMIT / 2)), [LIMIT / 2; 2]);
}

#[test]
fn a_new_primary_spends_nothing_until_the_other_region_has_confirmed_what_it_got() {
    let world = world(2);
    wait_for_window(&world);
    assert!(allowed(&world.check(1, "api", 10)));
    world.cut("us", "eu", true);
    world.cut("eu", "us", true);
    let port = world.regions[1].redis.server.port;
    assert_eq!(redis_cli(port, &["debug", "change-repl-id"]), "OK");
    assert_eq!(spend(&world, 1, 0), 0, "nobody can confirm");
    world.cut("us", "eu", false);
    world.cut("eu", "us", false);
    assert_eq!(spend(&world, 1, LIMIT - 10), LIMIT - 10);
    assert_eq!(spend(&world, 0, 0), 0);
}

#[test]
fn a_store_that_has_lost_everything_spends_nothing_until_the_next_window() {
    let world = world(2);
    wait_for_window(&world);
    assert!(allowed(&world.check(1, "api", 10)));
    redis_cli(world.regions[1].redis.server.port, &["flushall"]);
    assert_eq!(spend(&world, 1, 0), 0);
    wait_for_window(&world);
    assert!(allowed(&world.check(1, "api", 10)));
}
