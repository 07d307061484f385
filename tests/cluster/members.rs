//! What nodes say of themselves and of each other.

use serde_json::Value;

use crate::support::plane::Plane;
use crate::support::wait::wait_for;

/// What `/ready` says of the node in its cluster.
fn cluster(plane: &Plane, at: usize) -> String {
    let ready: Value = serde_json::from_str(&plane.get(at, "/ready").1).unwrap();
    ready["cluster"].as_str().unwrap().to_owned()
}

fn says(plane: &Plane, at: usize, text: &str) {
    wait_for(text, || cluster(plane, at).contains(text).then_some(()));
}

#[test]
fn nodes_say_how_they_and_their_cluster_are() {
    let mut plane = Plane::start(3, 1);
    // The leader, followers and a learner. Then the contact is older than a start is.
    for at in 0..4 {
        says(&plane, at, "ok");
    }
    let leader = wait_for("a leader", || plane.leader());
    wait_for("reports of all members", || {
        let members: Value =
            serde_json::from_str(&plane.command(leader, &["cluster", "members", "--output", "json"])).unwrap();
        let members = members.as_array().unwrap();
        (members.len() == 4 && members.iter().all(|member| member["last_seen_ms"].is_u64())).then_some(())
    });
    let table = plane.command(leader, &["cluster", "status"]);
    let seen = |line: &&str| line.contains(" ago ") && line.contains("127.0.0.1:");
    assert_eq!(table.lines().filter(seen).count(), 4, "{table}");
    // The nodes are in three regions, and tell each other what they count.
    wait_for("the other regions", || {
        let status: Value =
            serde_json::from_str(&plane.command(leader, &["cluster", "status", "--output", "json"])).unwrap();
        let regions = status["regions"].as_array().unwrap();
        let hears = |region: &Value| region["partitioned"] == false && region["heard_age_ms"].is_u64();
        (regions.len() == 2 && regions.iter().all(hears)).then_some(())
    });
    let table = plane.command(leader, &["cluster", "status"]);
    assert!(table.contains("hears this node"), "{table}");

    plane.command(leader, &["cluster", "remove", "n3"]);
    says(&plane, 3, "the cluster has removed this node");
    // The log may come a little later than the answer of /ready.
    let times = || plane.node(3).log().matches("the cluster has removed this node").count();
    wait_for("the log to say so", || (times() > 0).then_some(()));
    assert_eq!(times(), 1, "{}", plane.node(3).log());

    let alone = (leader + 1) % 3;
    let others = (0..3).filter(|at| *at != alone);
    others.for_each(|at| plane.kill(at));
    says(&plane, alone, "no leader was heard of lately");
    plane.kill(alone);
    plane.launch(alone);
    says(&plane, alone, "no leader was heard of lately");
    plane.launch((alone + 1) % 3);
    says(&plane, alone, "ok");
}
