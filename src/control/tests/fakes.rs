//! A cluster of one node and a database, both in memory.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use limiter::Revision;
use limiter::rules::{Algorithm, Limit, Match, Period, Quota};
use plane::{Change, Command, CommitId, Mark, Outcome, PlaneState, Refused, Snapshot, Transaction};
use tokio::sync::{Notify, watch};

use crate::ports::BoxFuture;
use crate::ports::plane::{
    ChangeSource, Changes, ClusterStatus, Consensus, ConsensusError, DatabaseError, MemberChange, Role,
};

/// A cluster of this node only, which applies at once.
pub(super) struct OneNode {
    pub(super) state: watch::Sender<Arc<PlaneState>>,
    pub(super) role: watch::Sender<Role>,
    /// Every command that was applied.
    pub(super) log: Mutex<Vec<Command>>,
    pub(super) last_contact: Mutex<Option<Duration>>,
    pub(super) failure: Mutex<Option<String>>,
}

impl Consensus for OneNode {
    fn state(&self) -> watch::Receiver<Arc<PlaneState>> {
        self.state.subscribe()
    }

    fn role(&self) -> watch::Receiver<Role> {
        self.role.subscribe()
    }

    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Outcome, ConsensusError>> {
        let mut state = PlaneState::clone(&self.state.borrow());
        // As on the wire and on the disk.
        let stored: Command = serde_json::from_str(&serde_json::to_string(&command).unwrap()).unwrap();
        self.log.lock().unwrap().push(command);
        let outcome = state.apply(stored);
        self.state.send_replace(Arc::new(state));
        Box::pin(std::future::ready(Ok(outcome)))
    }

    fn status(&self) -> ClusterStatus {
        ClusterStatus::default()
    }

    fn administer(&self, _: MemberChange) -> BoxFuture<'_, Result<(), ConsensusError>> {
        Box::pin(std::future::ready(Err(ConsensusError::Stopping)))
    }

    fn backup(&self) -> Result<Vec<u8>, String> {
        Ok(Vec::new())
    }

    fn last_contact(&self) -> Option<Duration> {
        *self.last_contact.lock().unwrap()
    }

    fn failure(&self) -> Option<String> {
        self.failure.lock().unwrap().clone()
    }
}

/// A database whose transactions are in memory.
#[derive(Default)]
pub(super) struct Database {
    inner: Mutex<Inner>,
    pub(super) changed: Notify,
}

#[derive(Default)]
pub(super) struct Inner {
    pub(super) log: Vec<Transaction>,
    /// The log has nothing up to here.
    pub(super) pruned_to: u64,
    pub(super) refused: Vec<Refused>,
    pub(super) away: bool,
    pub(super) restored: usize,
}

impl Database {
    pub(super) fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap()
    }

    pub(super) fn commit(&self, revision: u64, changes: Vec<Change>) {
        self.lock().log.push(Transaction::new(mark(revision), changes));
        self.changed.notify_one();
    }
}

impl Inner {
    /// All rows, as of the end of the log.
    fn snapshot(&self) -> Snapshot {
        let mut rows: Vec<(String, Change)> = Vec::new();
        for change in self.log.iter().flat_map(|transaction| &transaction.changes) {
            rows.retain(|(name, _)| *name != change.row());
            if !matches!(change, Change::RemoveLimit { .. }) {
                rows.push((change.row(), change.clone()));
            }
        }
        let mark = self.log.last().map_or_else(Mark::default, |last| last.mark);
        let of_rules = |transaction: &&Transaction| transaction.changes.iter().any(Change::is_of_rules);
        let rules_revision = self.log.iter().rev().find(of_rules).map_or(Revision::NONE, |last| last.mark.revision);
        Snapshot { mark, rules_revision, rows: rows.into_iter().map(|(_, row)| row).collect() }
    }
}

impl ChangeSource for Database {
    fn changes_after(&self, mark: Mark, max: usize) -> BoxFuture<'_, Result<Changes, DatabaseError>> {
        let inner = self.lock();
        let place = inner.log.iter().position(|transaction| transaction.mark == mark);
        let changes = match place {
            _ if inner.away => Err(DatabaseError::Unavailable("away".to_owned())),
            Some(place) => Ok(Changes::Next(inner.log[place + 1..].iter().take(max).cloned().collect())),
            None if mark.revision.0 <= inner.pruned_to => Ok(Changes::Pruned),
            None => Ok(Changes::Diverged),
        };
        Box::pin(std::future::ready(changes))
    }

    fn read_all(&self) -> BoxFuture<'_, Result<Snapshot, DatabaseError>> {
        let inner = self.lock();
        let all = if inner.away { Err(DatabaseError::Unavailable("away".to_owned())) } else { Ok(inner.snapshot()) };
        Box::pin(std::future::ready(all))
    }

    fn wait_for_change(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.changed.notified())
    }

    fn report_refused(&self, refused: &[Refused]) -> BoxFuture<'_, Result<(), DatabaseError>> {
        self.lock().refused = refused.to_vec();
        Box::pin(std::future::ready(Ok(())))
    }

    fn restore_missing(&self, state: Arc<PlaneState>) -> BoxFuture<'_, Result<(), DatabaseError>> {
        let revision = state.mark().revision.0 + 1000;
        self.lock().restored += 1;
        self.commit(revision, state.rows());
        Box::pin(std::future::ready(Ok(())))
    }
}

pub(super) fn mark(revision: u64) -> Mark {
    Mark { revision: Revision(revision), id: CommitId(u128::from(revision) << 64) }
}

pub(super) fn limit(name: &str, hits: u64, replaces: &[&str]) -> Limit {
    Limit {
        name: name.to_owned(),
        matches: Match::default(),
        per: vec!["user".into()],
        limit: Quota::Hits(hits),
        period: Period::Window { ms: 60_000 },
        algorithm: Algorithm::SlidingWindow,
        cells: None,
        burst: None,
        consistency: None,
        scope: Default::default(),
        overdraft: false,
        on_store_failure: Default::default(),
        mode: Default::default(),
        overrides: Vec::new(),
        replaces: replaces.iter().map(|name| (*name).to_owned()).collect(),
        response_headers: Default::default(),
    }
}

pub(super) fn put(name: &str, hits: u64, replaces: &[&str]) -> Change {
    Change::PutLimit { domain: "api".to_owned(), position: 0, limit: Box::new(limit(name, hits, replaces)) }
}
