//! The log of a node, as the Raft library asks for it. Calls are made inline: the log has a thread for itself, which it
//! shares with nothing but Raft.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};

use openraft::storage::{LogFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{ErrorSubject, ErrorVerb, OptionalSend, StorageError};

use super::store::{COMMITTED, PURGED, Store, VOTE};
use super::types::{Entry, LogId, TypeConfig, Vote};

/// About how much of the log one message to a peer carries.
const MESSAGE_BYTES: usize = 4 << 20;

/// The log and the vote of a node.
#[derive(Clone)]
pub struct Log(pub Store);

pub(super) fn storage_error(subject: ErrorSubject<u64>, verb: ErrorVerb, error: io::Error) -> StorageError<u64> {
    StorageError::from_io_error(subject, verb, error)
}

fn bounds(range: &impl RangeBounds<u64>) -> (u64, u64) {
    let start = match range.start_bound() {
        Bound::Included(start) => *start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(end) => end.saturating_add(1),
        Bound::Excluded(end) => *end,
        Bound::Unbounded => u64::MAX,
    };
    (start, end)
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError<u64>> {
        let (start, end) = bounds(&range);
        if start >= end {
            return Ok(Vec::new());
        }
        let entries = self.0.entries(start..end, usize::MAX);
        entries.map_err(|error| storage_error(ErrorSubject::Logs, ErrorVerb::Read, error))
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError<u64>> {
        if start >= end {
            return Ok(Vec::new());
        }
        let entries = self.0.entries(start..end, MESSAGE_BYTES);
        entries.map_err(|error| storage_error(ErrorSubject::Logs, ErrorVerb::Read, error))
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError<u64>> {
        let read = || {
            let purged: Option<LogId> = self.0.read(PURGED)?;
            Ok(LogState { last_purged_log_id: purged, last_log_id: self.0.last_log_id()?.or(purged) })
        };
        read().map_err(|error| storage_error(ErrorSubject::Logs, ErrorVerb::Read, error))
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError<u64>> {
        self.0.write(VOTE, vote).await.map_err(|error| storage_error(ErrorSubject::Vote, ErrorVerb::Write, error))
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError<u64>> {
        self.0.read(VOTE).map_err(|error| storage_error(ErrorSubject::Vote, ErrorVerb::Read, error))
    }

    /// It is durable before the entries are applied: a node that restarts alone applies at least what it had applied.
    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError<u64>> {
        let Some(committed) = committed else { return Ok(()) };
        let written = self.0.write(COMMITTED, &committed).await;
        written.map_err(|error| storage_error(ErrorSubject::Store, ErrorVerb::Write, error))
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError<u64>> {
        self.0.read(COMMITTED).map_err(|error| storage_error(ErrorSubject::Store, ErrorVerb::Read, error))
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError<u64>>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries = entries.into_iter().collect();
        let appended = self.0.append(entries).await;
        appended.map_err(|error| storage_error(ErrorSubject::Logs, ErrorVerb::Write, error))?;
        callback.log_io_completed(Ok(()));
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError<u64>> {
        let removed = self.0.remove_from(log_id.index).await;
        removed.map_err(|error| storage_error(ErrorSubject::Log(log_id), ErrorVerb::Delete, error))
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError<u64>> {
        let purged = self.0.purge(log_id).await;
        purged.map_err(|error| storage_error(ErrorSubject::Log(log_id), ErrorVerb::Delete, error))
    }
}
