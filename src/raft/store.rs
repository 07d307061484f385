//! The typed and sealed view of a [`Disk`].

use std::io;
use std::ops::Range;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::disk::{Disk, Write};
use super::error::RaftError;
use super::seal::{Seal, Unreadable};
use super::types::{Entry, LogId, SnapshotMeta, Vote};

/// The format of what is stored. A change that older releases cannot read gets a new number.
const FORMAT: u32 = 1;
pub const IDENTITY: &str = "identity";
pub const VOTE: &str = "vote";
pub const COMMITTED: &str = "committed";
pub const PURGED: &str = "purged";
pub const SNAPSHOT: &str = "snapshot";
const NAMES: [&str; 5] = [IDENTITY, VOTE, COMMITTED, PURGED, SNAPSHOT];
/// About how much of the log is read at once.
const READ_BYTES: usize = 8 << 20;

/// What a node is, as its first start has stored it.
#[derive(Debug, Serialize, Deserialize)]
struct Identity {
    format: u32,
    cluster: String,
    id: u64,
}

/// A snapshot as it is stored: what it covers, and the state in JSON.
#[derive(Clone, Debug)]
pub struct StoredSnapshot {
    pub meta: SnapshotMeta,
    pub data: Vec<u8>,
}

/// Reads and writes sealed values. A clone is the same store.
#[derive(Clone)]
pub struct Store {
    disk: Arc<dyn Disk>,
    seal: Seal,
    snapshots: watch::Sender<Snapshots>,
}

/// What is known of the stored snapshot.
#[derive(Clone, Copy, Default)]
struct Snapshots {
    /// The first log index that the stored snapshot does not cover.
    covered: u64,
    /// True while a leader's snapshot arrives.
    receiving: bool,
}

impl Store {
    /// Opens what is on `disk` and verifies all of it. An empty disk becomes that of a new node with the id
    /// `fresh_id`. Returns the id of the node. `place` names the disk in errors.
    ///
    /// # Errors
    /// Returns an error that names the first value which is damaged, missing, of another cluster, or sealed with an
    /// unknown key.
    pub fn open(
        disk: Arc<dyn Disk>,
        seal: Seal,
        cluster: &str,
        fresh_id: u64,
        place: &str,
    ) -> Result<(Self, u64), RaftError> {
        let store = Self { disk, seal, snapshots: watch::Sender::default() };
        let checked = Check { store: &store, place };
        let identity: Option<Identity> = checked.read(IDENTITY)?;
        let Some(identity) = identity else {
            checked.is_empty()?;
            let identity = Identity { format: FORMAT, cluster: cluster.to_owned(), id: fresh_id };
            let written = store.put(IDENTITY, &identity).and_then(|write| store.disk.write(vec![write]));
            written.map_err(|error| RaftError::Io { place: place.to_owned(), error })?;
            return Ok((store, fresh_id));
        };
        let place_text = || place.to_owned();
        if identity.format != FORMAT {
            return Err(RaftError::OtherFormat { place: place_text(), found: identity.format, expected: FORMAT });
        }
        if identity.cluster != cluster {
            let (found, expected) = (identity.cluster, cluster.to_owned());
            return Err(RaftError::OtherCluster { place: place_text(), found, expected });
        }
        let covered = checked.all()?;
        store.snapshots.send_modify(|snapshots| snapshots.covered = covered);
        Ok((store, identity.id))
    }

    /// # Errors
    /// Returns an error if the disk fails or the value is damaged, as do the other functions.
    pub fn read<T: DeserializeOwned>(&self, name: &str) -> io::Result<Option<T>> {
        let Some(sealed) = self.disk.meta(name)? else { return Ok(None) };
        let value = self.seal.open(name, &sealed).map_err(|error| invalid(name, &error))?;
        serde_json::from_slice(&value).map(Some).map_err(|error| invalid(name, &error))
    }

    /// # Errors
    /// See [`Self::read`].
    pub async fn write<T: Serialize>(&self, name: &'static str, value: &T) -> io::Result<()> {
        let write = self.put(name, value)?;
        self.disk.write_log(vec![write]).await
    }

    /// # Errors
    /// See [`Self::read`].
    pub fn entries(&self, range: Range<u64>, max_bytes: usize) -> io::Result<Vec<Entry>> {
        let entries = self.disk.entries(range, max_bytes)?;
        entries.iter().map(|(index, sealed)| self.entry(*index, sealed)).collect()
    }

    /// # Errors
    /// See [`Self::read`].
    pub fn last_log_id(&self) -> io::Result<Option<LogId>> {
        let last = self.disk.last_entry()?;
        last.map(|(index, sealed)| self.entry(index, &sealed).map(|entry| entry.log_id)).transpose()
    }

    /// # Errors
    /// See [`Self::read`].
    pub async fn append(&self, entries: Vec<Entry>) -> io::Result<()> {
        let put = |entry: Entry| {
            let index = entry.log_id.index;
            let value = serde_json::to_vec(&entry)?;
            Ok(Write::Entry(index, self.seal.seal(&entry_place(index), &value).map_err(io::Error::other)?))
        };
        let writes = entries.into_iter().map(put).collect::<io::Result<Vec<_>>>()?;
        if writes.is_empty() { Ok(()) } else { self.disk.write_log(writes).await }
    }

    /// # Errors
    /// See [`Self::read`].
    pub async fn remove_from(&self, index: u64) -> io::Result<()> {
        self.disk.write_log(vec![Write::RemoveEntries(index..u64::MAX)]).await
    }

    /// Marks that a snapshot of the leader begins to arrive.
    pub fn receive_snapshot(&self) {
        self.snapshots.send_modify(|snapshots| snapshots.receiving = true);
    }

    /// Removes the log up to `upto`. The Raft library asks for that before a received snapshot is on the disk: the log
    /// waits for it, so that a crash cannot lose both. A snapshot of this node itself does not end the wait unless it
    /// covers the log.
    ///
    /// # Errors
    /// Returns an error if no snapshot on the disk covers the log and none is arriving, and see [`Self::read`].
    pub async fn purge(&self, upto: LogId) -> io::Result<()> {
        let mut snapshots = self.snapshots.subscribe();
        let settled = snapshots.wait_for(|snapshots| !snapshots.receiving || snapshots.covered > upto.index).await;
        if settled.map_err(io::Error::other)?.covered <= upto.index {
            return Err(io::Error::other(format!("no snapshot on the disk covers the log up to {}", upto.index)));
        }
        let purged = self.put(PURGED, &upto)?;
        self.disk.write_log(vec![purged, Write::RemoveEntries(0..upto.index.saturating_add(1))]).await
    }

    /// Writes a snapshot that a leader sent. After an error, the log that it covers is not removed.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub fn install_snapshot(&self, snapshot: &StoredSnapshot) -> io::Result<()> {
        let written = self.write_snapshot(snapshot);
        self.snapshots.send_modify(|snapshots| snapshots.receiving = false);
        written
    }

    /// Writes a snapshot, and seals everything anew that was sealed with an older key. It does not let other tasks run
    /// meanwhile: they would change what it seals.
    ///
    /// # Errors
    /// See [`Self::read`].
    pub fn write_snapshot(&self, snapshot: &StoredSnapshot) -> io::Result<()> {
        let meta = serde_json::to_vec(&snapshot.meta)?;
        let value = [&(meta.len() as u64).to_be_bytes()[..], &meta, &snapshot.data].concat();
        let sealed = self.seal.seal(SNAPSHOT, &value).map_err(io::Error::other)?;
        let mut writes = self.outdated()?;
        writes.push(Write::Meta(SNAPSHOT, sealed));
        self.disk.write(writes)?;
        let covered = snapshot.meta.last_log_id.map_or(0, |last| last.index.saturating_add(1));
        // The library replaces no snapshot by an older one.
        self.snapshots.send_modify(|snapshots| snapshots.covered = snapshots.covered.max(covered));
        Ok(())
    }

    /// # Errors
    /// See [`Self::read`].
    pub fn read_snapshot(&self) -> io::Result<Option<StoredSnapshot>> {
        let Some(sealed) = self.disk.meta(SNAPSHOT)? else { return Ok(None) };
        let value = self.seal.open(SNAPSHOT, &sealed).map_err(|error| invalid(SNAPSHOT, &error))?;
        let parts = value
            .split_first_chunk::<8>()
            .and_then(|(length, rest)| rest.split_at_checked(usize::try_from(u64::from_be_bytes(*length)).ok()?));
        let (meta, data) = parts.ok_or_else(|| invalid(SNAPSHOT, &Unreadable::Damaged))?;
        let meta = serde_json::from_slice(meta).map_err(|error| invalid(SNAPSHOT, &error))?;
        Ok(Some(StoredSnapshot { meta, data: data.to_vec() }))
    }

    /// Seals `value` as backups are sealed.
    ///
    /// # Errors
    /// Returns an error if the value cannot be sealed.
    pub fn seal_backup(&self, value: &[u8]) -> Result<Vec<u8>, String> {
        self.seal.seal("backup", value)
    }

    /// # Errors
    /// Says why the backup cannot be read.
    pub fn open_backup(&self, sealed: &[u8]) -> Result<Vec<u8>, Unreadable> {
        self.seal.open("backup", sealed)
    }

    fn put<T: Serialize>(&self, name: &'static str, value: &T) -> io::Result<Write> {
        let sealed = self.seal.seal(name, &serde_json::to_vec(value)?).map_err(io::Error::other)?;
        Ok(Write::Meta(name, sealed))
    }

    fn entry(&self, index: u64, sealed: &[u8]) -> io::Result<Entry> {
        let place = entry_place(index);
        let value = self.seal.open(&place, sealed).map_err(|error| invalid(&place, &error))?;
        serde_json::from_slice(&value).map_err(|error| invalid(&place, &error))
    }

    /// Everything but the snapshot that is not sealed with the first key, sealed with it.
    fn outdated(&self) -> io::Result<Vec<Write>> {
        let mut writes = Vec::new();
        if matches!(self.seal, Seal::Checksum) {
            return Ok(writes);
        }
        let seal = |place: &str, sealed: &[u8]| {
            let value = self.seal.open(place, sealed).map_err(|error| invalid(place, &error))?;
            self.seal.seal(place, &value).map_err(io::Error::other)
        };
        for name in NAMES.into_iter().filter(|name| *name != SNAPSHOT) {
            if let Some(sealed) = self.disk.meta(name)?.filter(|sealed| !self.seal.is_current(sealed)) {
                writes.push(Write::Meta(name, seal(name, &sealed)?));
            }
        }
        let mut next = 0;
        loop {
            let entries = self.disk.entries(next..u64::MAX, READ_BYTES)?;
            let Some((last, _)) = entries.last() else { return Ok(writes) };
            next = last.saturating_add(1);
            for (index, sealed) in entries.iter().filter(|(_, sealed)| !self.seal.is_current(sealed)) {
                writes.push(Write::Entry(*index, seal(&entry_place(*index), sealed)?));
            }
        }
    }
}

fn entry_place(index: u64) -> String {
    format!("log entry {index}")
}

fn invalid(place: &str, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{place}: {error}"))
}

/// Verifies a store when a node starts.
struct Check<'a> {
    store: &'a Store,
    place: &'a str,
}

impl Check<'_> {
    fn damaged(&self, what: &str, why: impl Into<String>) -> RaftError {
        RaftError::Damaged { place: self.place.to_owned(), what: what.to_owned(), why: why.into() }
    }

    fn disk<T>(&self, result: io::Result<T>) -> Result<T, RaftError> {
        result.map_err(|error| RaftError::reading(self.place, error))
    }

    fn open(&self, what: &str, sealed: &[u8]) -> Result<Vec<u8>, RaftError> {
        self.store.seal.open(what, sealed).map_err(|why| match why {
            Unreadable::Damaged => self.damaged(&format!("the {what}"), "is damaged"),
            why => RaftError::WrongKey { place: self.place.to_owned(), what: format!("the {what}"), why },
        })
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, RaftError> {
        let Some(sealed) = self.disk(self.store.disk.meta(name))? else { return Ok(None) };
        let value = self.open(name, &sealed)?;
        let value = serde_json::from_slice(&value);
        value.map(Some).map_err(|error| self.damaged(&format!("the {name}"), format!("cannot be read: {error}")))
    }

    fn is_empty(&self) -> Result<(), RaftError> {
        let mut empty = self.disk(self.store.disk.last_entry())?.is_none();
        for name in NAMES {
            empty &= self.disk(self.store.disk.meta(name))?.is_none();
        }
        if empty { Ok(()) } else { Err(self.damaged("the identity of the node", "is missing")) }
    }

    /// The log has no gap, begins where it was purged, and reaches as far as is known to be committed.
    /// Returns the first index that the snapshot does not cover.
    fn all(&self) -> Result<u64, RaftError> {
        let _: Option<Vote> = self.read(VOTE)?;
        let committed: Option<LogId> = self.read(COMMITTED)?;
        let purged: Option<LogId> = self.read(PURGED)?;
        if let Some(sealed) = self.disk(self.store.disk.meta(SNAPSHOT))? {
            self.open(SNAPSHOT, &sealed)?;
        }
        let snapshot = self.disk(self.store.read_snapshot())?.and_then(|snapshot| snapshot.meta.last_log_id);
        let mut next = purged.map_or(0, |purged| purged.index.saturating_add(1));
        loop {
            let entries = self.disk(self.store.disk.entries(next..u64::MAX, READ_BYTES))?;
            if entries.is_empty() {
                break;
            }
            for (index, sealed) in entries {
                let what = entry_place(next);
                if index != next {
                    return Err(self.damaged(&format!("the {what}"), "is missing"));
                }
                let value = self.open(&what, &sealed)?;
                let entry: Result<Entry, _> = serde_json::from_slice(&value);
                entry.map_err(|error| self.damaged(&format!("the {what}"), format!("cannot be read: {error}")))?;
                next = next.saturating_add(1);
            }
        }
        let covered = snapshot.map_or(0, |snapshot| snapshot.index.saturating_add(1));
        if purged.is_some_and(|purged| purged.index >= covered) {
            return Err(self.damaged("the snapshot", "is missing, and the log before it was removed"));
        }
        if committed.is_some_and(|committed| committed.index >= next.max(covered)) {
            return Err(self.damaged(&format!("the {}", entry_place(next)), "is missing, and it is committed"));
        }
        Ok(covered)
    }
}
