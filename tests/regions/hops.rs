//! What a user gets who spends a limit in one region and goes to the next.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::servers::wait_for;
use crate::support::wait::elapsed;
use crate::world::{Setup, World, allowed, body};

/// The limit of each user.
const LIMIT: u64 = 100;

fn rules(global: Option<Value>, consistency: &str, window: &str) -> String {
    let mut limit = json!({ "name": "l", "per": ["user"], "limit": LIMIT, "window": window, "algorithm": "fixed_window",
        "consistency": consistency });
    if let Some(global) = global {
        limit["scope"] = "global".into();
        limit["global"] = global;
    }
    json!({ "version": 1, "domains": [{ "domain": "api", "limits": [limit] }] }).to_string()
}

/// The one-way delays of the user's document.
pub fn delay_ms(from: &str, to: &str) -> u64 {
    match [from, to] {
        ["us", "eu"] | ["eu", "us"] => 40,
        ["us", "ap"] | ["ap", "us"] => 75,
        ["eu", "ap"] | ["ap", "eu"] => 110,
        _ => 0,
    }
}

/// Each user spends the limit in each region in turn, with a pause after each check. Returns the hits that were
/// admitted for each user, and the time of each check.
#[expect(clippy::disallowed_methods, reason = "the pause is part of what is measured")]
fn hop(world: &World, users: usize, pause: Duration) -> (Vec<u64>, Vec<Duration>) {
    let mut times = Vec::new();
    let users = (0..users).map(|user| {
        let body = body("api", &format!("u{user}"), 1);
        let mut admitted = 0;
        for region in 0..3 {
            loop {
                let start = elapsed();
                let passes = allowed(&world.node(region).check(&body));
                times.push(elapsed() - start);
                if !passes {
                    break;
                }
                admitted += 1;
                std::thread::sleep(pause);
            }
        }
        admitted
    });
    (users.collect(), times)
}

#[test]
#[ignore = "a measurement of some minutes, of a release build that TIDEGATE_PROGRAM names: see docs/regions.md"]
fn users_who_hop_between_regions() {
    let gossip = || Some(json!({ "strategy": "gossip", "on_partition": "share" }));
    println!("| | pause | admitted ÷ limit, mean | most | check p50 | check p99 |\n|---|---|---|---|---|---|");
    let escrow = || Some(json!({ "strategy": "escrow" }));
    for (name, global, consistency, one_store) in [
        ("`region`", None, "leased", false),
        ("`gossip`", gossip(), "leased", false),
        ("`escrow`", escrow(), "leased", false),
        ("`escrow`, `exact`", escrow(), "exact", false),
        ("one Redis for all regions", None, "leased", true),
        ("one Redis for all regions, `exact`", None, "exact", true),
    ] {
        // Rights are spent only in windows that begin after the stores.
        let window = if global == escrow() { "50s" } else { "1h" };
        for pause_ms in [0, 10] {
            let setup = Setup {
                regions: 3,
                interval: "100ms",
                partition_after: "2s",
                delay_ms,
                one_store,
                ..Setup::new(rules(global.clone(), consistency, window))
            };
            let world = World::start(&setup);
            wait_for("a window with rights", || (world.remaining(2, "api") > 0).then_some(()));
            // A check of one Redis takes up to 150 ms.
            let users = if one_store { 3 } else { 20 };
            let (admitted, mut times) = hop(&world, users, Duration::from_millis(pause_ms));
            times.sort_unstable();
            let at = |part: usize| times[times.len() * part / 100];
            let ratio = |hits: u64| hits as f64 / LIMIT as f64;
            println!(
                "| {name} | {pause_ms} ms | {:.2} | {:.2} | {:.2?} | {:.2?} |",
                ratio(admitted.iter().sum::<u64>()) / users as f64,
                ratio(*admitted.iter().max().unwrap()),
                at(50),
                at(99)
            );
            assert!(admitted.iter().all(|hits| *hits <= 3 * LIMIT));
        }
    }
}
