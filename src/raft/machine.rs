//! The state machine: the replicated configuration, the members, and the ids that were removed.

use std::collections::VecDeque;
use std::io::Cursor;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use openraft::storage::{RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, ErrorSubject, ErrorVerb, OptionalSend, StorageError};
use plane::PlaneState;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use super::log::storage_error;
use super::metrics::RaftMetrics;
use super::store::{COMMITTED, Store, StoredSnapshot};
use super::types::{Applied, Entry, LogId, Proposal, SnapshotMeta, StoredMembership, TypeConfig};

/// How many removed ids the cluster remembers, beside those that are still members. The oldest is forgotten first.
const MAX_REMOVED: usize = 1024;
/// The same for nodes without a disk, which draw a new id at each start.
const MAX_REMOVED_DISKLESS: usize = 64;

/// What a snapshot holds.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Body {
    plane: PlaneState,
    removed: VecDeque<u64>,
    /// They cannot make the cluster forget other removed ids.
    #[serde(default)]
    removed_diskless: VecDeque<u64>,
}

impl Body {
    fn removed(&self) -> impl Iterator<Item = u64> {
        self.removed.iter().chain(&self.removed_diskless).copied()
    }
}

#[derive(Default)]
struct State {
    last: Option<LogId>,
    membership: StoredMembership,
    body: Body,
}

/// The state machine of a node. A clone is the same one.
#[derive(Clone)]
pub struct Machine {
    store: Store,
    state: Arc<Mutex<State>>,
    published: watch::Sender<Arc<PlaneState>>,
    /// The last entry that was known to be committed when the node stopped. Nothing older is published: the node has
    /// decided under newer rules.
    committed: Option<u64>,
    metrics: RaftMetrics,
}

impl Machine {
    /// Creates the state machine from the last snapshot.
    ///
    /// # Errors
    /// Returns an error if the snapshot cannot be read.
    pub fn open(store: Store, metrics: RaftMetrics) -> std::io::Result<Self> {
        let published = watch::Sender::new(Arc::new(PlaneState::default()));
        let committed = store.read::<LogId>(COMMITTED)?.map(|committed| committed.index);
        let machine = Self { store, state: Arc::default(), published, committed, metrics };
        if let Some(snapshot) = machine.store.read_snapshot()? {
            machine.restore(&snapshot.meta, &snapshot.data)?;
        }
        Ok(machine)
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The configuration, after each batch of entries that was applied.
    pub fn plane(&self) -> watch::Receiver<Arc<PlaneState>> {
        self.published.subscribe()
    }

    /// True if the cluster has removed the node with this id, and it is no member any more.
    pub fn has_removed(&self, id: u64) -> bool {
        let state = self.lock();
        state.body.removed().any(|removed| removed == id) && state.membership.membership().get_node(&id).is_none()
    }

    /// Members whose removal is decided and not yet made.
    pub fn leaving(&self) -> Vec<u64> {
        let state = self.lock();
        let is_member = |id: &u64| state.membership.membership().get_node(id).is_some();
        state.body.removed().filter(is_member).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn restore(&self, meta: &SnapshotMeta, data: &[u8]) -> std::io::Result<()> {
        let body: Body = serde_json::from_slice(data)?;
        let mut state = self.lock();
        state.last = meta.last_log_id;
        state.membership = meta.last_membership.clone();
        state.body = body;
        self.publish(&state);
        Ok(())
    }

    fn publish(&self, state: &State) {
        if state.last.map(|last| last.index) >= self.committed {
            self.published.send_replace(Arc::new(state.body.plane.clone()));
        }
    }
}

impl State {
    fn apply(&mut self, entry: Entry) -> Applied {
        self.last = Some(entry.log_id);
        match entry.payload {
            EntryPayload::Blank => Applied(None),
            EntryPayload::Membership(membership) => {
                self.membership = StoredMembership::new(Some(entry.log_id), membership);
                Applied(None)
            }
            EntryPayload::Normal(Proposal::Command(command)) => Applied(Some(self.body.plane.apply(*command))),
            EntryPayload::Normal(Proposal::Remove { id }) => {
                self.remove(id);
                Applied(None)
            }
        }
    }

    fn remove(&mut self, id: u64) {
        if self.body.removed().any(|removed| removed == id) {
            return;
        }
        let membership = self.membership.membership();
        let keeps_disk = membership.get_node(&id).is_none_or(|node| node.keeps_disk);
        let (ids, most) = match keeps_disk {
            true => (&mut self.body.removed, MAX_REMOVED),
            false => (&mut self.body.removed_diskless, MAX_REMOVED_DISKLESS),
        };
        ids.push_back(id);
        // The removal of a member is not complete: without its id, nobody completes it.
        if ids.len() > most
            && let Some(oldest) = ids.iter().position(|id| membership.get_node(id).is_none())
        {
            ids.remove(oldest);
        }
    }
}

impl RaftSnapshotBuilder<TypeConfig> for Machine {
    async fn build_snapshot(&mut self) -> Result<Snapshot<TypeConfig>, StorageError<u64>> {
        let (meta, data) = {
            let state = self.lock();
            let index = state.last.map_or_else(|| "0".to_owned(), |last| format!("{}-{}", last.leader_id, last.index));
            let (last_log_id, last_membership) = (state.last, state.membership.clone());
            (SnapshotMeta { last_log_id, last_membership, snapshot_id: index }, serde_json::to_vec(&state.body))
        };
        let built = data.map_err(std::io::Error::from).and_then(|data| {
            let snapshot = StoredSnapshot { meta, data };
            self.store.write_snapshot(&snapshot).map(|()| snapshot)
        });
        let built = built.map_err(|error| storage_error(ErrorSubject::Snapshot(None), ErrorVerb::Write, error))?;
        self.metrics.snapshot_written(built.data.len());
        Ok(Snapshot { meta: built.meta, snapshot: Box::new(Cursor::new(built.data)) })
    }
}

impl RaftStateMachine<TypeConfig> for Machine {
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError<u64>> {
        let state = self.lock();
        Ok((state.last, state.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Applied>, StorageError<u64>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let mut state = self.lock();
        let outcomes: Vec<Applied> = entries.into_iter().map(|entry| state.apply(entry)).collect();
        if outcomes.iter().any(|applied| applied.0.is_some()) {
            self.publish(&state);
        }
        Ok(outcomes)
    }

    async fn get_snapshot_builder(&mut self) -> Self {
        self.clone()
    }

    async fn begin_receiving_snapshot(&mut self) -> Result<Box<Cursor<Vec<u8>>>, StorageError<u64>> {
        self.store.receive_snapshot();
        Ok(Box::default())
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<Cursor<Vec<u8>>>,
    ) -> Result<(), StorageError<u64>> {
        let stored = StoredSnapshot { meta: meta.clone(), data: snapshot.into_inner() };
        let installed = self.store.install_snapshot(&stored).and_then(|()| self.restore(meta, &stored.data));
        let subject = || ErrorSubject::Snapshot(Some(meta.signature()));
        installed.map_err(|error| storage_error(subject(), ErrorVerb::Write, error))?;
        self.metrics.snapshot_written(stored.data.len());
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot<TypeConfig>>, StorageError<u64>> {
        let read = self.store.read_snapshot();
        let read = read.map_err(|error| storage_error(ErrorSubject::Snapshot(None), ErrorVerb::Read, error))?;
        Ok(read.map(|stored| Snapshot { meta: stored.meta, snapshot: Box::new(Cursor::new(stored.data)) }))
    }
}
