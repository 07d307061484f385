//! Nodes form a cluster, come and go.

use tempfile::TempDir;
use tidegate::ports::plane::{Consensus, MemberRole, Role};

use crate::cluster::{Seat, all_reach, leader, three, until, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_a_cluster() {
    let folder = TempDir::new().unwrap();
    let node = Seat::new("a", Some(folder.path().to_owned())).start().await;
    assert_eq!(node.role(), Role::Joining);
    node.init(&[&node]).await;
    assert_eq!(write(&[&node]).await, 1);
    until("the node knows that it leads itself", || node.node.last_contact().is_some()).await;
    let seat = node.stop().await;
    let node = seat.start().await;
    all_reach(&[&node], 1).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_nodes_replicate_and_a_fourth_joins() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    let revision = write(&[&a, &b, &c]).await;
    all_reach(&[&a, &b, &c], revision).await;
    let d = Seat::new("d", None).joining(&[&a.seat, &b.seat]).start().await;
    all_reach(&[&d], revision).await;
    let leads = leader(&[&a, &b, &c]).await;
    until("the leader knows what the learner has applied", || {
        leads.member("d").is_some_and(|d| d.role == MemberRole::Learner && d.revision.is_some_and(|r| r.0 == revision))
    })
    .await;
    for node in [a, b, c, d] {
        node.stop().await;
    }
}
