//! How old the counts are that a region has heard from another.

use std::time::Duration;

use serde_json::json;

use crate::support::wait::{elapsed, wait_for};
use crate::world::{Setup, World, body, rules};

const SAMPLES: usize = 300;
const DELAY: Duration = Duration::from_millis(40);
const INTERVAL: Duration = Duration::from_millis(100);

#[test]
#[ignore = "a measurement of a minute: see docs/regions.md"]
fn counts_of_another_region_are_as_old_as_a_delay_and_an_interval() {
    let setup = Setup {
        interval: "100ms",
        partition_after: "2s",
        delay_ms: |_, _| 40,
        ..Setup::new(rules(&[("api", json!({ "strategy": "gossip" }))]))
    };
    let world = World::start(&setup);
    let mut ages: Vec<Duration> = Vec::new();
    for sample in 0..SAMPLES {
        let user = format!("u{sample}");
        let charge = world.node(0).check(&body("api", &user, 10));
        let start = elapsed();
        assert_eq!(charge.status, 200);
        let peek = body("api", &user, 0);
        wait_for("the count", || {
            let left = world.node(1).check(&peek).json()["limits"][0]["remaining"].as_u64();
            (left == Some(90)).then_some(())
        });
        ages.push(elapsed() - start);
    }
    ages.sort_unstable();
    let at = |part: usize| ages[ages.len() * part / 100];
    println!(
        "staleness of {SAMPLES} counts, with a delay of {DELAY:?} and an interval of {INTERVAL:?}: p50 {:.1?}, p99 {:.1?}, \
         most {:.1?}",
        at(50),
        at(99),
        ages[SAMPLES - 1]
    );
}
