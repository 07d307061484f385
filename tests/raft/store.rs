//! The store, as the Raft library tests it, and as damage shows it.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::StorageError;
use openraft::testing::{StoreBuilder, Suite};
use tempfile::TempDir;
use tidegate::raft::disk::{Disk, FILE, RedbDisk, Write};
use tidegate::raft::log::Log;
use tidegate::raft::machine::Machine;
use tidegate::raft::seal::{EncryptionKeys, Seal};
use tidegate::raft::store::Store;
use tidegate::raft::types::TypeConfig;

use crate::cluster::{Seat, all_reach, metrics, write};
use crate::faults::{FaultyDisk, snapshot};

const KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const NEW_KEY: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

struct Builder(Seal);

impl StoreBuilder<TypeConfig, Log, Machine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, Log, Machine), StorageError<u64>> {
        let folder = TempDir::new().unwrap();
        let disk = Arc::new(FaultyDisk::new(RedbDisk::open(folder.path()).unwrap()));
        let (store, _) = Store::open(Arc::clone(&disk) as _, self.0.clone(), "test", 1, "test").unwrap();
        // The suite removes logs that no snapshot covers. The store takes this one for written.
        disk.loses_writes.store(true, Ordering::Relaxed);
        store.write_snapshot(&snapshot(1 << 40)).unwrap();
        disk.loses_writes.store(false, Ordering::Relaxed);
        let machine = Machine::open(store.clone(), metrics()).unwrap();
        Ok((folder, Log(store), machine))
    }
}

#[test]
fn the_librarys_suite_passes_on_plain_files() {
    Suite::test_all(Builder(Seal::Checksum)).unwrap();
}

#[test]
fn the_librarys_suite_passes_on_encrypted_files() {
    Suite::test_all(Builder(Seal::Encryption(EncryptionKeys::parse(KEY).unwrap()))).unwrap();
}

/// A node that was stopped after five writes and a snapshot after the third.
async fn stopped(folder: &Path, keys: &str) -> Seat {
    let mut seat = Seat::new("a", Some(folder.to_owned()));
    if !keys.is_empty() {
        seat = seat.keys(keys);
    }
    (seat.config.timings.snapshot_after, seat.config.timings.keep_entries) = (4, 2);
    let node = seat.start().await;
    node.init(&[&node]).await;
    for _ in 0..8 {
        write(&[&node]).await;
    }
    crate::cluster::until("a snapshot is written", || node.metrics.snapshots() > 0).await;
    node.stop().await
}

fn error_of(seat: &Seat) -> String {
    match seat.open(metrics()) {
        Ok(_) => panic!("the node starts"),
        Err(error) => error.to_string(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_file_is_named_and_the_node_does_not_start() {
    let folder = TempDir::new().unwrap();
    let seat = stopped(folder.path(), "").await;
    let path = folder.path().join(FILE);
    let whole = fs::read(&path).unwrap();
    // Pages that are no longer used hold it as well.
    let value = b"\"cluster\"";
    let found: Vec<usize> = (0..whole.len()).filter(|at| whole[*at..].starts_with(value)).collect();
    assert!(!found.is_empty());
    type Damage<'a> = Box<dyn Fn(&mut Vec<u8>) + 'a>;
    let kinds: [(&str, Damage<'_>); 6] = [
        ("empty", Box::new(|bytes| bytes.clear())),
        ("cut in the middle", Box::new(|bytes| bytes.truncate(bytes.len() / 2))),
        ("no header", Box::new(|bytes| bytes[..512].fill(0))),
        ("something else", Box::new(|bytes| *bytes = b"not a database, but long enough".repeat(400))),
        ("a changed value", Box::new(|bytes| found.iter().for_each(|at| bytes[*at] ^= 1))),
        ("zeros", Box::new(|bytes| bytes.fill(0))),
    ];
    for (kind, damage) in kinds {
        let mut bytes = whole.clone();
        damage(&mut bytes);
        fs::write(&path, &bytes).unwrap();
        let error = error_of(&seat);
        assert!(error.contains(FILE) && error.contains("cluster restore"), "{kind}: {error}");
        if kind != "something else" && kind != "empty" {
            assert_eq!(fs::read(&path).unwrap().len(), bytes.len(), "{kind}: the file was changed");
        }
    }
    fs::write(&path, &whole).unwrap();
    let node = seat.start().await;
    all_reach(&[&node], 8).await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_and_exchanged_values_are_named() {
    let folder = TempDir::new().unwrap();
    let seat = stopped(folder.path(), "").await;
    let path = folder.path().join(FILE);
    let whole = fs::read(&path).unwrap();
    type Damage = fn(&dyn Disk, &[(u64, Vec<u8>)]);
    let kinds: [(&str, Damage); 6] = [
        ("is missing", |disk, log| {
            let index = log[1].0;
            disk.write(vec![Write::RemoveEntries(index..index + 1)]).unwrap();
        }),
        ("is committed", |disk, log| {
            let index = log.last().unwrap().0;
            disk.write(vec![
                Write::RemoveEntries(index..index + 1),
                Write::Meta("vote", disk.meta("vote").unwrap().unwrap()),
            ])
            .unwrap();
        }),
        ("is damaged", |disk, log| disk.write(vec![Write::Entry(log[1].0, log[0].1.clone())]).unwrap()),
        ("the vote is damaged", |disk, _| {
            disk.write(vec![Write::Meta("vote", disk.meta("committed").unwrap().unwrap())]).unwrap();
        }),
        ("the snapshot is damaged", |disk, _| disk.write(vec![Write::Meta("snapshot", vec![1; 40])]).unwrap()),
        ("the identity is damaged", |disk, _| disk.write(vec![Write::Meta("identity", Vec::new())]).unwrap()),
    ];
    for (part, damage) in kinds {
        fs::write(&path, &whole).unwrap();
        let disk = RedbDisk::open(folder.path()).unwrap();
        let log = disk.entries(0..u64::MAX, usize::MAX).unwrap();
        damage(&disk, &log);
        drop(disk);
        let error = error_of(&seat);
        assert!(error.contains(part) && error.contains("cluster restore"), "{part}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_of_another_cluster_or_key_is_named() {
    let folder = TempDir::new().unwrap();
    let seat = stopped(folder.path(), KEY).await;
    let mut other = seat.clone();
    other.config.cluster = "other".to_owned();
    assert!(error_of(&other).contains("belongs to the cluster test"));
    let error = error_of(&seat.clone().keys(NEW_KEY));
    assert!(error.contains("encryption_key_file does not list"), "{error}");
    let mut plain = seat.clone();
    plain.config.encryption = None;
    let error = error_of(&plain);
    assert!(error.contains("is encrypted"), "{error}");
    let bytes = fs::read(folder.path().join(FILE)).unwrap();
    for secret in ["setting", "127.0.0.1", "\"test\""] {
        assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "the file shows {secret}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_rotated_by_a_restart_and_a_snapshot() {
    let folder = TempDir::new().unwrap();
    let seat = stopped(folder.path(), KEY).await;
    let rotating = seat.clone().keys(&format!("{NEW_KEY}\n{KEY}")).start().await;
    all_reach(&[&rotating], 8).await;
    let before = rotating.metrics.snapshots();
    write(&[&rotating]).await;
    rotating.administer(tidegate::ports::plane::MemberChange::Snapshot).await.unwrap();
    crate::cluster::until("a snapshot is written", || rotating.metrics.snapshots() > before).await;
    let seat = rotating.stop().await;
    // The old key is no longer needed.
    let node = seat.keys(NEW_KEY).start().await;
    all_reach(&[&node], 9).await;
    node.stop().await;
}
