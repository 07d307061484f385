//! Drills in which nodes stop, are killed, and are replaced under load.

use std::time::Duration;

use crate::drill::Fault;
use crate::node::wait_for;
use crate::region::{NODES, Region};
use crate::servers::Cluster;

/// Shuts a node down gracefully and starts it again.
fn replace(region: &mut Region, index: usize) {
    region.nodes[index].signal("TERM");
    let ended = region.nodes[index].child.wait().unwrap();
    assert_eq!(ended.code(), Some(0), "the node shuts down gracefully and in time");
    region.nodes[index] = region.start_node(index);
    region.wait_for_node(index);
}

#[test]
fn promises_hold_while_nodes_stop_and_restart() {
    let redis = Cluster::start_with_slow_failover();
    let mut region = Region::start(&redis.url(), &[]);
    let signal = |name: &'static str| move |region: &mut Region| region.nodes[0].signal(name);
    let fault = Fault::new("a node stops (SIGSTOP)", signal("STOP"), signal("CONT"));
    region.drill(fault.lasting(Duration::from_secs(1)).pauses_node());
    let kill = |region: &mut Region| {
        region.nodes[0].child.kill().unwrap();
        region.nodes[0].child.wait().unwrap();
    };
    let back = |region: &mut Region| {
        region.nodes[0] = region.start_node(0);
        region.wait_for_node(0);
    };
    region.drill(Fault::new("a node is killed and restarted", kill, back).kills_nodes());
    let roll = |region: &mut Region| (0..NODES).for_each(|index| replace(region, index));
    region.drill(Fault::new("all nodes are replaced, one after another (SIGTERM)", roll, |_| ()).kills_nodes());
    wait_for("all shards to run without a restart", || {
        region.nodes.iter().all(|node| node.metric("tidegate_shard_restarts_total ") == 0.0).then_some(())
    });
    region.print_report("Nodes of a region with a cluster of 3 + 3");
}
