//! What nodes say to each other: whose messages are taken, and how long they may take.

use std::time::Duration;

use plane::{Change, Command, Transaction};
use tempfile::TempDir;
use tidegate::ports::Service;
use tidegate::ports::plane::{Consensus, Role};

use crate::cluster::{PATIENCE, Seat, all_reach, leader, mark, stop, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_others_are_rejected_and_counted() {
    use proto::tidegate::cluster::cluster_client::ClusterClient;
    use proto::tidegate::cluster::{Envelope, Rejection};
    let folder = TempDir::new().unwrap();
    let a = Seat::new("a", Some(folder.path().join("a"))).start().await;
    a.init(&[&a]).await;
    leader(&[&a]).await;
    let mut stranger = Seat::new("x", None).joining(&[&a.seat]);
    stranger.config.cluster = "other".to_owned();
    let stranger = stranger.start().await;
    until("the stranger is counted", || a.rejected(Rejection::Cluster) > 0).await;
    assert_eq!(stranger.role(), Role::Joining);
    let mut client = ClusterClient::connect(format!("http://{}", a.seat.address())).await.unwrap();
    let mut call = async |version: u32, target: u64, request: &str| {
        let request = request.as_bytes().to_vec();
        let envelope = Envelope { cluster: "test".to_owned(), version, sender: 7, target, request, data: Vec::new() };
        let answer = client.call(envelope).await.unwrap().into_inner();
        (answer.rejection(), answer.reply.is_empty())
    };
    let (own, identify) = (a.node.id(), r#""identify""#);
    assert_eq!(call(1, 0, identify).await, (Rejection::None, false));
    assert_eq!(call(2, own, identify).await, (Rejection::None, false), "the neighbouring version");
    assert_eq!(call(3, own, identify).await, (Rejection::Version, true));
    assert_eq!(call(1, own + 1, identify).await, (Rejection::Target, true));
    assert_eq!(call(1, own, "nonsense").await, (Rejection::Unreadable, true));
    for reason in [Rejection::Version, Rejection::Target, Rejection::Unreadable] {
        assert_eq!(a.rejected(reason), 1, "{reason:?}");
    }
    assert_eq!(a.members().len(), 1);
    stop([a, stranger]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_tls_only_loopback_is_reached() {
    let mut seat = Seat::new("a", None);
    seat.config.listen = "0.0.0.0:0".parse().unwrap();
    let node = seat.open(crate::cluster::metrics()).unwrap();
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let run = node.run(tidegate::ports::Shutdown(stopped));
    let error = tokio::time::timeout(PATIENCE, run).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("cluster.tls"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_that_takes_longer_than_a_heartbeat_reaches_every_node() {
    let folder = TempDir::new().unwrap();
    let patient = |name: &str| {
        let mut seat = Seat::new(name, Some(folder.path().join(name)));
        // An append has the time of a heartbeat. A build without optimisation encodes these rows in a longer time.
        seat.config.timings.heartbeat = Duration::from_millis(30);
        seat.config.timings.election = (Duration::from_secs(5), Duration::from_secs(6));
        seat.config.timings.write = PATIENCE;
        seat
    };
    let (a, b) = (patient("a").start().await, patient("b").start().await);
    a.init(&[&a, &b]).await;
    let leader = leader(&[&a, &b]).await;
    let row = |number| Change::PutSetting { name: format!("setting {number}"), value: "x".repeat(400).into() };
    let transactions = vec![Transaction::new(mark(1), (0..10_000).map(row).collect())];
    let command = Command::Apply { after: mark(0), transactions, refused: Vec::new() };
    assert!(leader.node.propose(command).await.unwrap().applied);
    all_reach(&[&a, &b], 1).await;
    assert_eq!(**a.node.state().borrow(), **b.node.state().borrow());
    stop([a, b]).await;
}
