//! What a node needs to know to take part in a cluster.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use openraft::{Config, SnapshotPolicy};

use super::error::RaftError;
use super::seal::EncryptionKeys;

/// What a node needs to know to take part in a cluster.
#[derive(Clone, Debug)]
pub struct RaftConfig {
    /// The name of the cluster.
    pub cluster: String,
    /// The name of this node.
    pub node: String,
    pub region: String,
    /// Where the node listens for others.
    pub listen: SocketAddr,
    /// Where others reach it, `host:port`.
    pub advertise: String,
    /// The folder of the log and the snapshots; `None` keeps them in memory, and the node stays a learner.
    pub data_dir: Option<PathBuf>,
    /// Encrypts what is stored, and backups.
    pub encryption: Option<EncryptionKeys>,
    /// Members to ask for admission, `host:port`, in this order.
    pub join: Vec<String>,
    /// A random number. A node without a stored id takes it as its id.
    pub fresh_id: u64,
    pub timings: Timings,
}

/// How long things take and when they are done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timings {
    /// The leader speaks to every member this often. An append of entries must take no longer, also to far regions.
    pub heartbeat: Duration,
    /// A voter that hears no leader for a random time between these calls an election.
    pub election: (Duration, Duration),
    /// How long a part of a snapshot may take.
    pub snapshot_part: Duration,
    /// How long a proposal or a change of the members waits for its outcome.
    pub write: Duration,
    /// How long a promotion waits until the learner has the log.
    pub catch_up: Duration,
    /// How often a member reports to the leader.
    pub report: Duration,
    /// Log entries between two snapshots.
    pub snapshot_after: u64,
    /// Log entries that are kept behind a snapshot, for members that are a little behind.
    pub keep_entries: u64,
}

impl Default for Timings {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_millis(300),
            election: (Duration::from_millis(1000), Duration::from_millis(2000)),
            snapshot_part: Duration::from_secs(10),
            write: Duration::from_secs(5),
            catch_up: Duration::from_secs(30),
            report: Duration::from_secs(1),
            snapshot_after: 2000,
            keep_entries: 500,
        }
    }
}

/// The largest part of a snapshot in one message.
const SNAPSHOT_PART_BYTES: u64 = 1 << 20;

impl RaftConfig {
    pub(super) fn raft(&self) -> Result<Config, RaftError> {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let timings = &self.timings;
        let config = Config {
            cluster_name: self.cluster.clone(),
            heartbeat_interval: millis(timings.heartbeat),
            election_timeout_min: millis(timings.election.0),
            election_timeout_max: millis(timings.election.1),
            install_snapshot_timeout: millis(timings.snapshot_part),
            snapshot_policy: SnapshotPolicy::LogsSinceLast(timings.snapshot_after),
            max_in_snapshot_log_to_keep: timings.keep_entries,
            // A member that is further behind than the kept entries gets a snapshot.
            replication_lag_threshold: timings.snapshot_after.saturating_add(timings.keep_entries),
            snapshot_max_chunk_size: SNAPSHOT_PART_BYTES,
            ..Config::default()
        };
        config.validate().map_err(|error| RaftError::Configuration(error.to_string()))
    }

    /// A leader that no quorum has answered for this long does not count as one.
    pub(super) fn quorum_timeout(&self) -> Duration {
        self.timings.election.1
    }
}
