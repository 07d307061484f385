//! When this node last heard of a leader that a quorum follows, and whether the cluster has removed it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// What a node knows of its contact to the cluster.
#[derive(Debug, Default)]
pub struct Contact {
    /// The last instant at which a quorum is known to have followed a leader.
    quorum: Mutex<Option<Instant>>,
    removed: AtomicBool,
    /// When the log last said that others reject this node.
    complained: Mutex<Option<Instant>>,
}

/// The log says that others reject this node at most this often.
const COMPLAINT_INTERVAL: Duration = Duration::from_secs(60);

/// The clock of the Raft part.
#[expect(clippy::disallowed_methods, reason = "the clock of Raft's runtime, which a simulation drives")]
pub fn now() -> Instant {
    Instant::now()
}

impl Contact {
    /// Records that a quorum followed a leader `age` ago.
    pub fn heard(&self, age: Duration) {
        let Some(at) = now().checked_sub(age) else { return };
        let mut quorum = self.quorum.lock().unwrap_or_else(PoisonError::into_inner);
        *quorum = Some(quorum.map_or(at, |last| last.max(at)));
    }

    /// The time since a quorum is known to have followed a leader.
    pub fn age(&self) -> Option<Duration> {
        self.quorum.lock().unwrap_or_else(PoisonError::into_inner).map(|at| now().saturating_duration_since(at))
    }

    /// Logs that another node rejects this one for `reason`, if that was not logged lately.
    pub fn rejected(&self, reason: &str) {
        let mut complained = self.complained.lock().unwrap_or_else(PoisonError::into_inner);
        if complained.is_none_or(|at| now().saturating_duration_since(at) >= COMPLAINT_INTERVAL) {
            *complained = Some(now());
            tracing::error!(%reason, "other nodes reject the messages of this node");
        }
    }

    pub fn set_removed(&self) {
        self.removed.store(true, Ordering::Relaxed);
    }

    pub fn is_removed(&self) -> bool {
        self.removed.load(Ordering::Relaxed)
    }
}
