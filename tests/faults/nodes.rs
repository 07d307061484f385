//! Nodes that stop, are killed, and are replaced under load.

use std::time::Duration;

use crate::alone;
use crate::drill::Fault;
use crate::node::wait_for;
use crate::region::{NODES, Region};
use crate::servers::Cluster;

/// Ends a node in order and starts it again.
fn renew(region: &mut Region, at: usize) {
    region.nodes[at].signal("TERM");
    let ended = region.nodes[at].child.wait().unwrap();
    assert_eq!(ended.code(), Some(0), "in order, and in time");
    region.nodes[at] = region.node(at);
    region.await_node(at);
}

#[test]
fn nodes_under_fire() {
    let _alone = alone();
    let redis = Cluster::patient();
    let mut region = Region::start(&redis.url(), &[]);
    let signal = |name: &'static str| move |region: &mut Region| region.nodes[0].signal(name);
    let fault = Fault::new("a node stops (SIGSTOP)", signal("STOP"), signal("CONT"));
    region.drill(fault.lasts(Duration::from_secs(1)).stands());
    let kill = |region: &mut Region| {
        region.nodes[0].child.kill().unwrap();
        region.nodes[0].child.wait().unwrap();
    };
    let back = |region: &mut Region| {
        region.nodes[0] = region.node(0);
        region.await_node(0);
    };
    region.drill(Fault::new("a node is killed, and started again", kill, back).of_nodes());
    let roll = |region: &mut Region| (0..NODES).for_each(|at| renew(region, at));
    region.drill(Fault::new("all nodes are replaced, one after another (SIGTERM)", roll, |_| ()).of_nodes());
    wait_for("no fault of ours", || {
        region.nodes.iter().all(|node| node.metric("tidegate_shard_restarts_total ") == 0.0).then_some(())
    });
    region.report("Nodes of a region with a cluster of 3 + 3");
}
