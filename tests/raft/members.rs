//! Nodes form a cluster, come and go.

use limiter::Revision;
use plane::{Change, Command, Transaction};
use tempfile::TempDir;
use tidegate::ports::Service;
use tidegate::ports::plane::{Consensus, ConsensusError, MemberChange, MemberRole, Role};

use crate::cluster::{PATIENCE, Running, Seat, all_reach, is_invalid, leader, mark, stop, three, until, write};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_node_is_a_cluster() {
    let folder = TempDir::new().unwrap();
    let node = Seat::new("a", Some(folder.path().to_owned())).start().await;
    assert_eq!(node.role(), Role::Joining);
    node.init(&[&node]).await;
    assert_eq!(write(&[&node]).await, 1);
    until("the node knows that it leads itself", || node.node.last_contact().is_some()).await;
    let (id, seat) = (node.node.id(), node.stop().await);
    let node = seat.start().await;
    assert_eq!(node.node.id(), id);
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
    let status = d.node.status();
    assert_eq!(status.leader.as_deref(), Some(leads.name()));
    assert_eq!(status.members.iter().map(|member| member.name.as_str()).collect::<Vec<_>>(), ["a", "b", "c", "d"]);
    stop([a, b, c, d]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_is_formed_once_and_of_the_named_nodes() {
    let folder = TempDir::new().unwrap();
    let a = Seat::new("a", Some(folder.path().join("a"))).start().await;
    let b = Seat::new("b", Some(folder.path().join("b"))).start().await;
    let diskless = Seat::new("m", None).start().await;
    let init = async |voters: &[(&str, String)]| {
        let voters = voters.iter().map(|(name, address)| ((*name).to_owned(), address.clone())).collect();
        a.administer(MemberChange::Init { voters }).await.unwrap_err()
    };
    let (at_a, at_b) = (a.seat.address(), b.seat.address());
    assert!(is_invalid(&init(&[]).await, "at least one"));
    assert!(is_invalid(&init(&[("b", at_b.clone())]).await, "a is asked to form the cluster"));
    assert!(is_invalid(&init(&[("a", at_a.clone()), ("c", at_b.clone())]).await, "the node there is b"));
    assert!(is_invalid(&init(&[("a", at_a.clone()), ("a", at_b.clone())]).await, "each name once"));
    assert!(is_invalid(&init(&[("a", at_a.clone()), ("m", diskless.seat.address())]).await, "cluster.data_dir"));
    let nobody = crate::cluster::free_address().to_string();
    assert!(is_invalid(&init(&[("a", at_a.clone()), ("c", nobody)]).await, "c at"));
    b.init(&[&b]).await;
    leader(&[&b]).await;
    assert!(is_invalid(&init(&[("a", at_a), ("b", at_b)]).await, "in a cluster already"));
    assert_eq!(a.role(), Role::Joining);
    stop([a, b, diskless]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_with_a_disk_is_promoted_and_demoted_by_any_node() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    let d = Seat::new("d", Some(folder.path().join("d"))).joining(&[&a.seat]).start().await;
    let m = Seat::new("m", None).joining(&[&d.seat]).start().await;
    for _ in 0..3 {
        write(&[&a, &b, &c]).await;
    }
    until("the learners are members", || a.member("d").is_some() && a.member("m").is_some()).await;
    // A follower passes the change on to the leader.
    let follower = [&a, &b, &c].into_iter().find(|node| !node.leads()).unwrap();
    follower.promote("d").await.unwrap();
    until("d votes", || d.voters() == ["a", "b", "c", "d"]).await;
    assert!(is_invalid(&follower.promote("m").await.unwrap_err(), "cluster.data_dir"));
    assert!(is_invalid(&follower.promote("x").await.unwrap_err(), "no member x"));
    follower.demote("d").await.unwrap();
    until("d does not vote", || d.voters() == ["a", "b", "c"]).await;
    all_reach(&[&d, &m], 3).await;
    stop([a, b, c, d, m]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_is_demoted_or_removed_lets_another_lead() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    write(&[&a, &b, &c]).await;
    let first = leader(&[&a, &b, &c]).await;
    let others: Vec<&Running> = [&a, &b, &c].into_iter().filter(|node| node.name() != first.name()).collect();
    first.remove(first.name()).await.unwrap();
    let second = leader(&others).await;
    until("the removed leader knows", || first.role() == Role::Removed).await;
    assert!(first.node.propose(crate::cluster::command(1)).await.is_err());
    write(&others).await;
    second.demote(second.name()).await.unwrap();
    let third = *others.iter().find(|node| node.name() != second.name()).unwrap();
    leader(&[third]).await;
    assert!(is_invalid(&third.remove(third.name()).await.unwrap_err(), "last voter"));
    assert!(is_invalid(&third.demote(third.name()).await.unwrap_err(), "last voter"));
    write(&[third]).await;
    all_reach(&others, 3).await;
    stop([a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_is_silent_and_stays_away_until_it_is_wiped() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    let d = Seat::new("d", Some(folder.path().join("d"))).joining(&[&a.seat]).start().await;
    until("d is a member", || a.member("d").is_some()).await;
    // On a busy machine, the leader may lose its quorum for a moment.
    let promoted = async {
        while let Err(error) = d.promote("d").await {
            assert_eq!(error, ConsensusError::NoQuorum);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, promoted).await.unwrap();
    // It is down while it is removed, and learns it when it comes back.
    let seat = d.stop().await;
    // The stop of a voter may cost the leader its quorum for a moment.
    let removed = async {
        while let Err(error) = a.remove("d").await {
            assert_eq!(error, ConsensusError::NoQuorum);
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(PATIENCE, removed).await.unwrap();
    let d = seat.start().await;
    until("d learns that it was removed", || d.role() == Role::Removed).await;
    let rejected = || [&a, &b, &c].iter().map(|node| node.rejected(proto::tidegate::cluster::Rejection::Removed)).sum();
    let before: u64 = rejected();
    assert!(before > 0);
    write(&[&a, &b, &c]).await;
    assert_eq!(a.member("d"), None);
    assert!(rejected() <= before + 1, "the removed node goes on sending");
    let mut seat = d.stop().await;
    std::fs::remove_dir_all(folder.path().join("d")).unwrap();
    seat.config.fresh_id += 1;
    let d = seat.start().await;
    all_reach(&[&d], 1).await;
    stop([a, b, c, d]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_leaves_when_it_stops_and_comes_back() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    let d = Seat::new("d", Some(folder.path().join("d"))).joining(&[&b.seat]).start().await;
    until("d is a member", || a.member("d").is_some() && d.member("d").is_some()).await;
    d.node.leave().await;
    until("d is gone", || a.member("d").is_none()).await;
    c.node.leave().await;
    // A node that asks again would be a member by now: the members that stay report several times meanwhile.
    let mut revision = 0;
    for _ in 0..3 {
        revision = write(&[&a, &b, &c]).await;
        let leads = leader(&[&a, &b, &c]).await;
        let reported =
            |name: &&str| leads.member(name).is_some_and(|member| member.revision >= Some(Revision(revision)));
        until("every member reports", || ["a", "b", "c"].iter().all(reported)).await;
    }
    assert_eq!(a.member("d"), None);
    let (id, seat) = (d.node.id(), d.stop().await);
    assert_eq!(a.voters(), ["a", "b", "c"], "a voter does not leave");
    let d = seat.start().await;
    all_reach(&[&d], revision).await;
    assert_eq!(d.node.id(), id);
    stop([a, b, c, d]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_that_is_not_seen_is_dropped_and_may_come_back() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    let change = Change::PutSetting { name: "drop_learner_after_ms".to_owned(), value: 1000.into() };
    let transactions = vec![Transaction::new(mark(1), vec![change])];
    let command = Command::Apply { after: mark(0), transactions, refused: Vec::new() };
    leader(&[&a, &b, &c]).await.node.propose(command).await.unwrap();
    let d = Seat::new("d", Some(folder.path().join("d"))).joining(&[&b.seat]).start().await;
    all_reach(&[&d], 1).await;
    let seat = d.stop().await;
    assert!(a.member("d").is_some(), "a node that was killed stays a member for a while");
    until("d is dropped", || a.member("d").is_none()).await;
    let revision = write(&[&a, &b, &c]).await;
    let d = seat.start().await;
    all_reach(&[&d], revision).await;
    stop([a, b, c, d]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_learner_without_a_disk_comes_back_as_a_new_node_and_replaces_itself() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    write(&[&a, &b, &c]).await;
    let d = Seat::new("d", None).joining(&[&a.seat]).start().await;
    all_reach(&[&d], 1).await;
    let mut seat = d.stop().await;
    seat.config.fresh_id += 1;
    let d = seat.start().await;
    all_reach(&[&d], 1).await;
    until("one d is a member", || a.members().len() == 4 && d.members().len() == 4).await;
    // A node that takes the name of a voter is not admitted.
    let thief = Seat::new("b", None).joining(&[&a.seat]).start().await;
    let revision = write(&[&a, &b, &c]).await;
    all_reach(&[&d], revision).await;
    assert_eq!((thief.role(), thief.revision()), (Role::Joining, 0));
    assert_eq!(a.member("b").unwrap().address, b.seat.address());
    stop([a, b, c, d, thief]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_grows_from_three_to_twenty_nodes_and_shrinks_again() {
    let folder = TempDir::new().unwrap();
    let [a, b, c] = three(folder.path()).await;
    let mut more = Vec::new();
    for number in 3..20 {
        more.push(Seat::new(&format!("n{number:02}"), None).joining(&[&a.seat, &b.seat, &c.seat]).start().await);
    }
    let revision = write(&[&a, &b, &c]).await;
    all_reach(&more.iter().collect::<Vec<_>>(), revision).await;
    until("the cluster has twenty members", || a.members().len() == 20).await;
    // Some leave, and some are killed and removed.
    for (number, node) in more.into_iter().enumerate() {
        let name = node.name().to_owned();
        if number % 2 == 0 {
            node.node.leave().await;
            node.stop().await;
        } else {
            node.stop().await;
            b.remove(&name).await.unwrap();
        }
    }
    let names = |node: &Running| node.members().into_iter().map(|member| member.name).collect::<Vec<_>>();
    until("no stale member is left", || [&a, &b, &c].iter().all(|node| names(node) == ["a", "b", "c"])).await;
    write(&[&a, &b, &c]).await;
    stop([a, b, c]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn silent_connections_are_ended_and_keep_no_node_away() {
    let folder = TempDir::new().unwrap();
    let a = Seat::new("a", Some(folder.path().join("a"))).start().await;
    a.init(&[&a]).await;
    let mut silent = Vec::new();
    for _ in 0..400 {
        silent.push(tokio::net::TcpStream::connect(a.seat.config.listen).await.unwrap());
    }
    let d = Seat::new("d", None).joining(&[&a.seat]).start().await;
    let revision = write(&[&a]).await;
    all_reach(&[&d], revision).await;
    for mut stream in silent {
        // The end, or a reset.
        let mut byte = [0];
        let ended = tokio::io::AsyncReadExt::read(&mut stream, &mut byte);
        assert!(tokio::time::timeout(PATIENCE, ended).await.unwrap().map_or(0, |read| read) == 0);
    }
    stop([a, d]).await;
}
