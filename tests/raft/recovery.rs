//! Nodes that restart, fall behind, lose their quorum, or come back from a backup.

use std::collections::VecDeque;
use std::time::Duration;

use plane::{Change, Command, Transaction};
use tempfile::TempDir;
use tidegate::ports::plane::{Consensus, ConsensusError, MemberChange};
use tidegate::raft::disk::FILE;

use crate::cluster::{
    PATIENCE, Running, Seat, all_reach, command, is_invalid, leader, mark, metrics, stop, three, until, write,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_restart_one_by_one_and_all_at_once() {
    let folder = TempDir::new().unwrap();
    let mut nodes: VecDeque<Running> = three(folder.path()).await.into();
    let mut revision = write(&nodes.iter().collect::<Vec<_>>()).await;
    for _ in 0..3 {
        let seat = nodes.pop_front().unwrap().stop().await;
        let node = seat.start().await;
        all_reach(&[&node], revision).await;
        nodes.push_back(node);
    }
    let [a, b, c] = <[Running; 3]>::try_from(Vec::from(nodes)).ok().unwrap();
    revision += 1;
    assert_eq!(write(&[&a, &b, &c]).await, revision);
    all_reach(&[&a, &b, &c], revision).await;
    let seats = [a.stop().await, b.stop().await, c.stop().await];
    // The first one that is back has everything that it had applied, with the others still down.
    let a = seats[0].start().await;
    all_reach(&[&a], revision).await;
    let (b, c) = (seats[1].start().await, seats[2].start().await);
    assert_eq!(write(&[&a, &b, &c]).await, revision + 1);
    stop([a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_restarts_shows_no_state_that_is_older_than_the_one_it_had() {
    let folder = TempDir::new().unwrap();
    let mut seat = Seat::new("a", Some(folder.path().join("a")));
    (seat.config.timings.snapshot_after, seat.config.timings.keep_entries) = (10, 2);
    let a = seat.start().await;
    a.init(&[&a]).await;
    for _ in 0..15 {
        write(&[&a]).await;
    }
    assert!(a.metrics.snapshots() >= 1);
    let had = a.node.state().borrow().mark().revision;
    let seat = a.stop().await;
    // The snapshot is older than what the node had applied.
    let opened = seat.opened(&metrics()).await;
    assert_eq!(opened.state().borrow().mark().revision.0, 0);
    drop(opened);
    let a = seat.start().await;
    let mut states = a.node.state();
    let shown = states.wait_for(|state| state.mark().revision.0 > 0).await.unwrap().mark().revision;
    assert!(shown >= had, "{shown} after {had}");
    stop([a]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_far_behind_gets_a_snapshot() {
    let folder = TempDir::new().unwrap();
    let mut seats: Vec<Seat> = ["a", "b"].iter().map(|name| Seat::new(name, Some(folder.path().join(name)))).collect();
    for seat in &mut seats {
        (seat.config.timings.snapshot_after, seat.config.timings.keep_entries) = (10, 2);
    }
    let (a, b) = (seats[0].start().await, seats[1].start().await);
    a.init(&[&a]).await;
    for _ in 0..40 {
        write(&[&a]).await;
    }
    assert!(a.metrics.snapshots() >= 3);
    b.stop().await;
    let b = seats[1].clone().joining(&[&a.seat]).start().await;
    all_reach(&[&b], 40).await;
    assert!(b.metrics.snapshots() >= 1);
    assert_eq!(**b.node.state().borrow(), **a.node.state().borrow());
    // An operator's snapshot compacts the log of the node that is asked.
    let before = a.metrics.snapshots();
    write(&[&a]).await;
    a.administer(MemberChange::Snapshot).await.unwrap();
    until("the snapshot is written", || a.metrics.snapshots() > before).await;
    let seat = b.stop().await;
    let b = seat.start().await;
    all_reach(&[&b], 41).await;
    stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_is_a_million_revisions_behind_catches_up_by_a_snapshot() {
    const REVISIONS: u64 = 1_000_000;
    // In one entry of the log, as the reader groups transactions.
    const GROUP: u64 = 1_000;
    let folder = TempDir::new().unwrap();
    let mut seats = ["a", "b"].map(|name| Seat::new(name, Some(folder.path().join(name))));
    for seat in &mut seats {
        (seat.config.timings.snapshot_after, seat.config.timings.keep_entries) = (100, 10);
    }
    let a = seats[0].start().await;
    a.init(&[&a]).await;
    let b = seats[1].clone().joining(&[&a.seat]).start().await;
    write(&[&a]).await;
    all_reach(&[&b], 1).await;
    let seat = b.stop().await;
    let written = async {
        while a.revision() <= REVISIONS {
            leader(&[&a]).await;
            let before = a.revision();
            let transactions = (before + 1..=before + GROUP).map(|revision| setting(revision, "small".to_owned()));
            let transactions = transactions.collect();
            // A busy machine may take longer than a proposal has. Then the next one goes on from what was applied.
            let command = Command::Apply { after: mark(before), transactions, refused: Vec::new() };
            let _ = a.node.propose(command).await;
        }
    };
    tokio::time::timeout(4 * PATIENCE, written).await.expect("a million revisions");
    let b = seat.start().await;
    all_reach(&[&b], REVISIONS + 1).await;
    assert!(b.metrics.snapshots() >= 1);
    assert_eq!(**b.node.state().borrow(), **a.node.state().borrow());
    let revision = write(&[&a]).await;
    all_reach(&[&b], revision).await;
    stop([a, b]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_without_a_quorum_says_that_the_outcome_is_unknown() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    let learner = Seat::new("d", None).joining(&[&a.seat]).start().await;
    write(&[&a, &b, &c]).await;
    all_reach(&[&learner], 1).await;
    let (alone, others) = stop_followers([a, b, c]).await;
    let proposed = alone.node.propose(command(1)).await.unwrap_err();
    assert!(matches!(proposed, ConsensusError::Unknown | ConsensusError::NotLeader { .. }), "{proposed:?}");
    until("the node no longer leads", || !alone.leads()).await;
    let removed = alone.remove("d").await.unwrap_err();
    assert!(matches!(removed, ConsensusError::Unknown | ConsensusError::NoQuorum), "{removed:?}");
    // The learner still hears the leader, and knows that no quorum follows it.
    let long = Duration::from_secs(2);
    until("the learner notices", || learner.node.last_contact().is_some_and(|age| age > long)).await;
    until("the leader notices", || alone.node.last_contact().is_some_and(|age| age > long)).await;
    assert_eq!(learner.revision(), 1);
    let back = others[0].start().await;
    write(&[&alone, &back]).await;
    until("the learner hears a quorum", || learner.node.last_contact().is_some_and(|age| age < long)).await;
    stop([alone, back, learner]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_restores_a_cluster_that_was_destroyed() {
    const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    let folder = TempDir::new().unwrap();
    let a = Seat::new("a", Some(folder.path().join("a"))).keys(KEY).start().await;
    a.init(&[&a]).await;
    for _ in 0..3 {
        write(&[&a]).await;
    }
    let backup = a.node.backup().unwrap();
    assert!(!backup.windows(7).any(|part| part == b"setting"), "the backup is not encrypted");
    let rules = a.node.state().borrow().settings().clone();
    a.stop().await;
    let a = Seat::new("a", Some(folder.path().join("new"))).keys(KEY).start().await;
    let b = Seat::new("b", Some(folder.path().join("b"))).keys(KEY).joining(&[&a.seat]).start().await;
    a.init(&[&a]).await;
    until("b is a member", || b.node.status().leader.is_some()).await;
    // A follower passes it on.
    b.administer(MemberChange::Restore { backup: backup.clone() }).await.unwrap();
    all_reach(&[&a, &b], 3).await;
    assert_eq!(*b.node.state().borrow().settings(), rules);
    let mut damaged = backup.clone();
    *damaged.last_mut().unwrap() ^= 1;
    let restore = |backup: &[u8]| a.administer(MemberChange::Restore { backup: backup.to_vec() });
    assert!(is_invalid(&restore(&damaged).await.unwrap_err(), "is damaged"));
    assert!(is_invalid(&restore(b"something else").await.unwrap_err(), "expected a file"));
    let mut other = Seat::new("o", Some(folder.path().join("o"))).keys(KEY);
    other.config.cluster = "other".to_owned();
    let other = other.start().await;
    other.init(&[&other]).await;
    leader(&[&other]).await;
    let error = other.administer(MemberChange::Restore { backup }).await.unwrap_err();
    assert!(is_invalid(&error, "of the cluster test"), "{error:?}");
    stop([a, b, other]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_whose_disk_was_restored_from_an_old_copy_catches_up() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    let (disk, copy) = (folder.path().join("d").join(FILE), folder.path().join("copy"));
    let d = Seat::new("d", Some(folder.path().join("d"))).joining(&[&a.seat]).start().await;
    let revision = write(&[&a, &b, &c]).await;
    all_reach(&[&d], revision).await;
    let seat = d.stop().await;
    std::fs::copy(&disk, &copy).unwrap();
    let d = seat.start().await;
    for _ in 0..5 {
        write(&[&a, &b, &c]).await;
    }
    all_reach(&[&d], 6).await;
    let leads = leader(&[&a, &b, &c]).await;
    let index = leads.member(leads.name()).unwrap().log_index;
    until("the leader knows what the learner has", || leads.member("d").unwrap().log_index >= index).await;
    let seat = d.stop().await;
    std::fs::copy(&copy, &disk).unwrap();
    let d = seat.start().await;
    all_reach(&[&d], 6).await;
    let revision = write(&[&a, &b, &c]).await;
    all_reach(&[&d], revision).await;
    assert_eq!(leads.node.failure(), None, "the leader stays");
    stop([a, b, c, d]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_has_proposed_much_without_a_quorum_does_not_keep_the_others_from_edits() {
    const PROPOSALS: u64 = 20;
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    let (alone, others) = stop_followers([a, b, c]).await;
    let large = |revision: u64| {
        let transactions = vec![setting(revision, "x".repeat(900_000))];
        Command::Apply { after: mark(revision - 1), transactions, refused: Vec::new() }
    };
    let proposals = (1..=PROPOSALS).map(|revision| alone.node.propose(large(revision)));
    for outcome in futures_util::future::join_all(proposals).await {
        assert_eq!(outcome.unwrap_err(), ConsensusError::Unknown);
    }
    let (one, two) = (others[0].start().await, others[1].start().await);
    let all = [&alone, &one, &two];
    // The others may lawfully elect one of themselves. What was proposed is then lost, and its outcome was unknown.
    let edited = async {
        loop {
            let leads = leader(&all).await;
            let before = leads.revision();
            match leads.node.propose(command(before)).await {
                Ok(outcome) if outcome.applied => return outcome.mark.revision.0,
                // What was proposed before came in force meanwhile.
                Ok(_) | Err(_) => tokio::task::yield_now().await,
            }
        }
    };
    let revision = tokio::time::timeout(PATIENCE, edited).await.expect("an edit");
    all_reach(&all, revision).await;
    let states: Vec<_> = all.iter().map(|node| node.node.state().borrow().clone()).collect();
    assert!(states.iter().all(|state| *state == states[0]));
    stop([alone, one, two]).await;
}

/// Stops every node but the leader.
async fn stop_followers(nodes: [Running; 3]) -> (Running, Vec<Seat>) {
    let name = leader(&nodes.each_ref()).await.name().to_owned();
    let (mut alone, mut others) = (None, Vec::new());
    for node in nodes {
        if node.name() == name {
            alone = Some(node);
        } else {
            others.push(node.stop().await);
        }
    }
    (alone.unwrap(), others)
}

/// A transaction that sets one of three settings.
fn setting(revision: u64, value: String) -> Transaction {
    let change = Change::PutSetting { name: format!("setting {}", revision % 3), value: value.into() };
    Transaction::new(mark(revision), vec![change])
}
