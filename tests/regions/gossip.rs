//! `scope: global` with `strategy: gossip`.

use serde_json::json;

use crate::support::node::Node;
use crate::support::servers::{redis_cli, wait_for};
use crate::world::{Setup, World, allowed, body, rules};

fn gossip(on_partition: &str) -> serde_json::Value {
    json!({ "strategy": "gossip", "on_partition": on_partition })
}

#[test]
fn a_user_who_hops_meets_what_the_other_region_counted() {
    let world = World::start(&Setup::new(rules(&[("api", gossip("open"))])));
    assert!(allowed(&world.check(0, "api", 60)));
    world.wait_for_remaining(1, "api", 40);
    assert_eq!(world.spend(1, "api"), 40);
    world.wait_for_remaining(0, "api", 0);
    assert_eq!(world.spend(0, "api"), 0);
    assert_eq!(world.node(0).metric("tidegate_gossip_dropped_total "), 0.0);
}

#[test]
fn a_partitioned_region_does_what_on_partition_says_and_counts_all_after_the_partition() {
    let domains = ["open", "share", "deny"];
    let world = World::start(&Setup::new(rules(&domains.map(|word| (word, gossip(word))))));
    for domain in domains {
        assert!(allowed(&world.check(0, domain, 40)));
        world.wait_for_remaining(1, domain, 60);
        assert_eq!(world.check(1, domain, 0).json().get("partitioned"), None);
    }
    world.cut("us", "eu", true);
    world.cut("eu", "us", true);
    world.wait_until_partitioned(true);
    for region in 0..2 {
        let admitted = domains.map(|domain| world.spend(region, domain));
        // `share`: half of the 60 that were left.
        assert_eq!(admitted, [60, 30, 0]);
        for domain in domains {
            assert_eq!(world.check(region, domain, 1).json()["partitioned"], true);
        }
    }
    world.cut("us", "eu", false);
    world.cut("eu", "us", false);
    world.wait_until_partitioned(false);
    for region in 0..2 {
        // Both regions count 100 of `share`, and 160 of `open`.
        for domain in ["open", "share"] {
            wait_for("the counts of both", || (world.remaining(region, domain) == 0).then_some(()));
            assert_eq!(world.spend(region, domain), 0);
        }
    }
    assert_eq!(world.spend(0, "deny"), 60, "nothing was admitted meanwhile");
}

#[test]
fn a_link_that_is_cut_one_way_partitions_both_regions() {
    let world = World::start(&Setup::new(rules(&[("share", gossip("share"))])));
    assert!(allowed(&world.check(0, "share", 40)));
    world.wait_for_remaining(1, "share", 60);
    world.cut("eu", "us", true);
    world.wait_until_partitioned(true);
    // The region that is not heard still hears the other one, so it goes first.
    assert_eq!(world.spend(1, "share"), 30);
    assert_eq!(world.spend(0, "share"), 30);
    world.cut("eu", "us", false);
    world.wait_until_partitioned(false);
    world.wait_for_remaining(0, "share", 0);
}

#[test]
fn a_region_that_hears_both_sides_of_a_cut_takes_its_share_too() {
    // A busy machine holds a message up for half a second now and then, which would be another partition.
    let setup = Setup { regions: 3, partition_after: "2s", ..Setup::new(rules(&[("share", gossip("share"))])) };
    let world = World::start(&setup);
    // Another user, so that no counter knows of the time before all nodes heard each other.
    let says_partitioned = |region| {
        let answer = world.node(region).check(&body("share", "other", 0));
        answer.json().get("partitioned").is_some()
    };
    let all_hear = || (0..3).all(|region| !says_partitioned(region)).then_some(());
    wait_for("all regions to hear each other", all_hear);
    assert!(allowed(&world.check(0, "share", 10)));
    (1..3).for_each(|region| world.wait_for_remaining(region, "share", 90));
    world.cut("us", "eu", true);
    world.cut("eu", "us", true);
    for (region, other) in [(0, "eu"), (1, "us")] {
        let name = format!("tidegate_region_partitioned{{region=\"{other}\"}} ");
        wait_for("the partition", || (world.node(region).metric(&name) == 1.0).then_some(()));
        // Its store remembers what was left.
        assert_eq!(world.check(region, "share", 0).json()["partitioned"], true);
    }
    wait_for("the region that hears both to know of it", || says_partitioned(2).then_some(()));
    // A third of the 90 that are left. The region that hears both goes first.
    assert_eq!([2, 0, 1].map(|region| world.spend(region, "share")), [30; 3]);
    world.cut("us", "eu", false);
    world.cut("eu", "us", false);
    wait_for("all regions to hear each other again", all_hear);
}

/// A region's store forgets. The node of the region remembers what it saw until it ends.
fn a_store_that_forgets_is_told_everything_again(replaced: bool) {
    let world = World::start(&Setup::new(rules(&[("api", gossip("open"))])));
    assert!(allowed(&world.check(0, "api", 60)));
    world.wait_for_remaining(1, "api", 40);
    let port = world.regions[1].redis.server.port;
    if replaced {
        assert_eq!(redis_cli(port, &["debug", "change-repl-id"]), "OK");
    }
    redis_cli(port, &["flushall"]);
    let told = || {
        let keys = redis_cli(port, &["--scan", "--pattern", "*"]);
        keys.lines().any(|key| redis_cli(port, &["strlen", key]).parse::<u64>().is_ok_and(|length| length > 30))
    };
    wait_for("the count in the new store", || told().then_some(()));
    assert_eq!(world.spend(1, "api"), 40);
}

#[test]
fn a_region_whose_primary_was_replaced_is_told_everything_again() {
    a_store_that_forgets_is_told_everything_again(true);
}

#[test]
fn a_region_whose_primary_was_flushed_is_told_everything_again() {
    a_store_that_forgets_is_told_everything_again(false);
}

#[test]
fn a_node_that_leaves_tells_what_it_counted() {
    // The next regular message would come much later.
    let setup = Setup { interval: "10s", partition_after: "60s", ..Setup::new(rules(&[("api", gossip("share"))])) };
    let world = World::start(&setup);
    assert!(allowed(&world.check(0, "api", 60)));
    world.node(0).signal("TERM");
    world.wait_for_remaining(1, "api", 40);
}

#[test]
fn another_node_takes_over_for_one_that_dies() {
    let mut world =
        World::start(&Setup { nodes: 2, partition_after: "10s", ..Setup::new(rules(&[("api", gossip("share"))])) });
    assert!(allowed(&world.check(0, "api", 10)));
    world.wait_for_remaining(1, "api", 90);
    let received = |node: &Node| node.metric("tidegate_gossip_reports_total{direction=\"received\"} ");
    let hears = world.regions[1].nodes.iter().flatten().position(|node| received(node) > 0.0).unwrap();
    world.regions[1].nodes[hears] = None;
    assert!(allowed(&world.check(0, "api", 10)));
    world.wait_for_remaining(1, "api", 80);
    for node in world.regions[0].nodes.iter().flatten() {
        assert_eq!(node.metric("tidegate_region_partitioned{region=\"eu\"} "), 0.0);
    }
}
