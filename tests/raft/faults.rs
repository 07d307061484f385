//! Disks that fail, and snapshots that do not arrive.

use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use futures_util::FutureExt;
use openraft::storage::RaftStateMachine;
use openraft::{CommittedLeaderId, Entry, EntryPayload, LogId, Membership, SnapshotMeta};
use plane::{Change, Command, Transaction};
use tempfile::TempDir;
use tidegate::ports::plane::{Consensus, MemberChange, Role};
use tidegate::ports::{Service, Shutdown};
use tidegate::raft::RaftError;
use tidegate::raft::disk::{Disk, RedbDisk, Write};
use tidegate::raft::machine::Machine;
use tidegate::raft::seal::Seal;
use tidegate::raft::store::{Store, StoredSnapshot};
use tidegate::raft::types::{MemberNode, Proposal};

use crate::cluster::{PATIENCE, Seat, all_reach, command, leader, mark, metrics, until, write};

/// A disk that can be full, unreadable, or a liar.
pub struct FaultyDisk {
    disk: RedbDisk,
    pub full: AtomicBool,
    pub unreadable: AtomicBool,
    pub loses_writes: AtomicBool,
    /// How often the log was read.
    reads: AtomicUsize,
}

impl FaultyDisk {
    pub fn new(disk: RedbDisk) -> Self {
        let (full, unreadable, loses_writes) = Default::default();
        Self { disk, full, unreadable, loses_writes, reads: AtomicUsize::default() }
    }

    fn read<T>(&self, read: impl FnOnce(&RedbDisk) -> io::Result<T>) -> io::Result<T> {
        if self.unreadable.load(Ordering::Relaxed) {
            return Err(io::Error::other("the bus is gone"));
        }
        read(&self.disk)
    }
}

impl Disk for FaultyDisk {
    fn meta(&self, name: &str) -> io::Result<Option<Vec<u8>>> {
        self.read(|disk| disk.meta(name))
    }

    fn entries(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<(u64, Vec<u8>)>> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.read(|disk| disk.entries(range, max_bytes))
    }

    fn last_entry(&self) -> io::Result<Option<(u64, Vec<u8>)>> {
        self.read(RedbDisk::last_entry)
    }

    fn write(&self, writes: Vec<Write>) -> io::Result<()> {
        if self.full.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.loses_writes.load(Ordering::Relaxed) { Ok(()) } else { self.disk.write(writes) }
    }
}

fn log_id(index: u64) -> LogId<u64> {
    LogId::new(CommittedLeaderId::new(1, 1), index)
}

/// A snapshot of an empty state that covers the log up to `index`.
pub fn snapshot(index: u64) -> StoredSnapshot {
    let meta = SnapshotMeta { last_log_id: Some(log_id(index)), ..SnapshotMeta::default() };
    StoredSnapshot { meta, data: Vec::new() }
}

fn faulty() -> (Arc<FaultyDisk>, Store) {
    let disk = Arc::new(FaultyDisk::new(RedbDisk::in_memory().unwrap()));
    let (store, _) = Store::open(Arc::clone(&disk) as _, Seal::Checksum, "test", 1, "test").unwrap();
    (disk, store)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_disk_is_full_keeps_its_last_rules() {
    let disk = Arc::new(FaultyDisk::new(RedbDisk::in_memory().unwrap()));
    let mut seat = Seat::new("a", Some(TempDir::new().unwrap().path().to_owned()));
    seat.disk = Some(Arc::clone(&disk) as _);
    let node = seat.start().await;
    node.init(&[&node]).await;
    assert_eq!(write(&[&node]).await, 1);
    assert!(node.metrics.is_ok() && node.node.failure().is_none());
    disk.full.store(true, Ordering::Relaxed);
    node.node.propose(command(1)).await.unwrap_err();
    let failure = crate::cluster::wait_for("the failure shows", || node.node.failure()).await;
    assert!(failure.contains("no storage space"), "{failure}");
    until("the node does not lead", || node.role() == Role::Follower).await;
    assert!(!node.metrics.is_ok());
    assert_eq!(node.revision(), 1);
    node.node.propose(command(1)).await.unwrap_err();
    assert!(!node.task.is_finished());
    disk.full.store(false, Ordering::Relaxed);
    let node = node.stop().await.start().await;
    all_reach(&[&node], 1).await;
    assert!(node.metrics.is_ok());
    write(&[&node]).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_state_ends_when_its_disk_is_full() {
    let disk = Arc::new(FaultyDisk::new(RedbDisk::in_memory().unwrap()));
    let mut seat = Seat::new("a", Some(TempDir::new().unwrap().path().to_owned()));
    seat.disk = Some(Arc::clone(&disk) as _);
    let node = seat.open(metrics()).unwrap();
    let (_stop, stopped) = tokio::sync::watch::channel(false);
    let run = node.run(Shutdown(stopped));
    disk.full.store(true, Ordering::Relaxed);
    let init = node.administer(MemberChange::Init { voters: vec![("a".to_owned(), seat.address())] });
    let (ended, _) = tokio::join!(tokio::time::timeout(PATIENCE, run), init);
    assert!(ended.unwrap().unwrap_err().to_string().contains("no storage space"));
}

#[test]
fn a_disk_that_cannot_be_read_is_not_called_damaged() {
    let (disk, _) = faulty();
    disk.unreadable.store(true, Ordering::Relaxed);
    let error = Store::open(disk, Seal::Checksum, "test", 1, "test").err().unwrap();
    assert!(matches!(error, RaftError::Io { .. }), "{error}");
    let folder = TempDir::new().unwrap();
    let _open = RedbDisk::open(folder.path()).unwrap();
    let error = Seat::new("a", Some(folder.path().to_owned())).open(metrics()).err().unwrap();
    assert!(matches!(error, RaftError::Io { .. }), "{error}");
}

#[tokio::test]
async fn the_log_is_removed_only_behind_a_snapshot_that_covers_it() {
    let (_, store) = faulty();
    store.purge(log_id(5)).await.unwrap_err();
    store.receive_snapshot();
    let mut purge = Box::pin(store.purge(log_id(5)));
    assert!((&mut purge).now_or_never().is_none());
    // A snapshot of the node itself, which covers less.
    store.write_snapshot(&snapshot(3)).unwrap();
    assert!((&mut purge).now_or_never().is_none());
    store.install_snapshot(&snapshot(5)).unwrap();
    purge.await.unwrap();
    store.purge(log_id(4)).await.unwrap();
}

#[tokio::test]
async fn the_log_stays_if_the_snapshot_cannot_be_written() {
    let (disk, store) = faulty();
    store.receive_snapshot();
    let mut purge = Box::pin(store.purge(log_id(5)));
    assert!((&mut purge).now_or_never().is_none());
    disk.full.store(true, Ordering::Relaxed);
    store.install_snapshot(&snapshot(5)).unwrap_err();
    disk.full.store(false, Ordering::Relaxed);
    purge.await.unwrap_err();
}

#[test]
fn a_snapshot_without_keys_does_not_read_the_log() {
    let (disk, store) = faulty();
    let before = disk.reads.load(Ordering::Relaxed);
    store.write_snapshot(&snapshot(1)).unwrap();
    assert_eq!(disk.reads.load(Ordering::Relaxed), before);
}

#[tokio::test]
async fn removed_ids_are_forgotten_by_age_but_not_members_and_not_for_nodes_without_a_disk() {
    let (_, store) = faulty();
    let mut machine = Machine::open(store, metrics()).unwrap();
    let mut index = 0;
    let mut apply = async |machine: &mut Machine, payload: EntryPayload<_>| {
        index += 1;
        machine.apply([Entry { log_id: log_id(index), payload }]).await.unwrap();
    };
    let remove = |id| EntryPayload::Normal(Proposal::Remove { id });
    // A member that is to be removed, one that was removed, and a diskless one after the other.
    let member = |keeps_disk| MemberNode { keeps_disk, ..MemberNode::default() };
    let members = std::collections::BTreeMap::from([(1, member(true)), (7, member(true))]);
    let voters = vec![std::collections::BTreeSet::from([1])];
    let membership = Membership::new(voters.clone(), members.clone());
    apply(&mut machine, EntryPayload::Membership(membership.clone())).await;
    apply(&mut machine, remove(7)).await;
    apply(&mut machine, remove(8)).await;
    for id in 1000..2100 {
        let mut members = members.clone();
        members.insert(id, member(false));
        apply(&mut machine, EntryPayload::Membership(Membership::new(voters.clone(), members))).await;
        apply(&mut machine, remove(id)).await;
    }
    apply(&mut machine, EntryPayload::Membership(membership)).await;
    assert!(machine.has_removed(8), "nodes without a disk displaced it");
    assert!(machine.has_removed(2099) && !machine.has_removed(1000));
    for id in 3000..4100 {
        apply(&mut machine, remove(id)).await;
    }
    assert_eq!(machine.leaving(), [7]);
    assert!(!machine.has_removed(8) && machine.has_removed(4099));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_state_is_restored_from_its_backup() {
    let folder = TempDir::new().unwrap();
    let mut seat = Seat::new("a", Some(folder.path().join("a")));
    seat.config.timings.write = PATIENCE * 4;
    let a = seat.start().await;
    a.init(&[&a]).await;
    leader(&[&a]).await;
    let book = Change::PutSetting { name: "book".to_owned(), value: "x".repeat(32 << 20).into() };
    let key = |number: u32| {
        let mut hash = [0; 32];
        hash[..4].copy_from_slice(&number.to_be_bytes());
        Change::RemoveKey { hash: plane::KeyHash(hash) }
    };
    let propose = async |revision: u64, changes: Vec<Change>| {
        let transactions = vec![Transaction::new(mark(revision), changes)];
        let command = Command::Apply { after: mark(revision - 1), transactions, refused: Vec::new() };
        assert!(a.node.propose(command).await.unwrap().applied);
    };
    propose(1, vec![book]).await;
    propose(2, (0..100_000).map(key).collect()).await;
    let backup = a.node.backup().unwrap();
    assert!(backup.len() < (60 << 20), "{} bytes", backup.len());
    propose(3, vec![Change::RemoveSetting { name: "book".to_owned() }]).await;
    a.administer(MemberChange::Restore { backup }).await.unwrap();
    let state = Arc::clone(&a.node.state().borrow());
    assert_eq!(state.settings()["book"].as_str().unwrap().len(), 32 << 20);
    assert_eq!((state.mark().revision.0, state.recent().forgotten_ended().0), (3, 3));
    a.stop().await;
}
