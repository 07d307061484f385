//! What the Raft part of a node counts.

use limiter::Revision;
use prometheus::{Error, IntCounter, IntCounterVec, IntGauge};
use proto::tidegate::cluster::Rejection;

use crate::telemetry::names;
use crate::telemetry::registry::MetricsRegistry;

/// The metrics of a node's place in its cluster.
#[derive(Clone)]
pub struct RaftMetrics {
    ok: IntGauge,
    term: IntGauge,
    leader: IntGauge,
    log_index: IntGauge,
    revision: IntGauge,
    members: IntGauge,
    elections: IntCounter,
    rejected: IntCounterVec,
    snapshots: IntCounter,
    snapshot_bytes: IntGauge,
}

impl RaftMetrics {
    /// # Errors
    /// Returns an error if the registry has these metrics already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        let rejected = registry.counters(&names::RAFT_REJECTED)?;
        for reason in [
            Rejection::Cluster,
            Rejection::Version,
            Rejection::Removed,
            Rejection::Target,
            Rejection::Unreadable,
            Rejection::Certificate,
        ] {
            rejected.with_label_values(&[label(reason)]);
        }
        Ok(Self {
            ok: registry.gauge(&names::RAFT_OK)?,
            term: registry.gauge(&names::RAFT_TERM)?,
            leader: registry.gauge(&names::RAFT_LEADER)?,
            log_index: registry.gauge(&names::RAFT_LOG_INDEX)?,
            revision: registry.gauge(&names::RAFT_REVISION)?,
            members: registry.gauge(&names::RAFT_MEMBERS)?,
            elections: registry.counter(&names::RAFT_ELECTIONS)?,
            rejected,
            snapshots: registry.counter(&names::RAFT_SNAPSHOTS)?,
            snapshot_bytes: registry.gauge(&names::RAFT_SNAPSHOT_BYTES)?,
        })
    }

    /// Counts a message that was rejected.
    pub fn rejected(&self, reason: Rejection) {
        self.rejected.with_label_values(&[label(reason)]).inc();
    }

    /// How many messages were rejected for this reason.
    pub fn rejections(&self, reason: Rejection) -> u64 {
        self.rejected.with_label_values(&[label(reason)]).get()
    }

    /// Counts a snapshot that was written.
    pub fn snapshot_written(&self, bytes: usize) {
        self.snapshots.inc();
        self.snapshot_bytes.set(clamp(bytes as u64));
    }

    /// How many snapshots were written.
    pub fn snapshots(&self) -> u64 {
        self.snapshots.get()
    }

    /// Records whether Raft runs.
    pub fn set_ok(&self, ok: bool) {
        self.ok.set(ok.into());
    }

    /// Whether Raft runs.
    pub fn is_ok(&self) -> bool {
        self.ok.get() == 1
    }

    /// Counts an election that this node called.
    pub fn election(&self) {
        self.elections.inc();
    }

    /// Records where the node is.
    pub fn set(&self, term: u64, leads: bool, log_index: u64, revision: Revision, members: usize) {
        self.term.set(clamp(term));
        self.leader.set(leads.into());
        self.log_index.set(clamp(log_index));
        self.revision.set(clamp(revision.0));
        self.members.set(clamp(members as u64));
    }
}

fn clamp(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn label(reason: Rejection) -> &'static str {
    match reason {
        Rejection::None => names::OTHER,
        Rejection::Cluster => "cluster",
        Rejection::Version => "version",
        Rejection::Removed => "removed",
        Rejection::Target => "target",
        Rejection::Unreadable => "unreadable",
        Rejection::Certificate => "certificate",
    }
}
