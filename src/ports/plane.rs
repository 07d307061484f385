//! The seams of the configuration plane: the consensus of the cluster, the database, and what front ends ask.

use std::time::Duration;

use limiter::Revision;
use limiter::rules::{Limit, Rules};
use plane::{CachedKey, Command, KeyHash, KeyRow, Mark, Outcome, PlaneState, Refused, Snapshot, Transaction, UserRow};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::sync::Arc;
use tokio::sync::watch;

use super::BoxFuture;

/// The replicated state of the cluster, at this node.
pub trait Consensus: Send + Sync + 'static {
    /// The state that this node has applied, and every newer one. Receivers may miss states in between.
    fn state(&self) -> watch::Receiver<Arc<PlaneState>>;
    /// The role of this node now, and every later one.
    fn role(&self) -> watch::Receiver<Role>;
    /// Proposes a command, and waits until this node has applied it. Only a leader can.
    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Outcome, ConsensusError>>;
    /// What this node knows of the cluster.
    fn status(&self) -> ClusterStatus;
    /// Changes the members. A node that does not lead passes the change on to the leader.
    fn administer(&self, change: MemberChange) -> BoxFuture<'_, Result<(), ConsensusError>>;
    /// The state of the cluster as a file that [`MemberChange::Restore`] takes.
    ///
    /// # Errors
    /// Why it cannot be made.
    fn backup(&self) -> Result<Vec<u8>, String>;
    /// The time since this node last heard of a leader that a quorum follows; `None` if it never did.
    fn last_contact(&self) -> Option<Duration>;
    /// Why this node no longer takes part in the consensus, until it restarts; `None` while it does.
    fn failure(&self) -> Option<String>;
}

/// The role of a node in the cluster.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Role {
    /// The node waits until a member admits it.
    #[default]
    Joining,
    /// The node applies what the leader sends.
    Follower,
    /// The node leads, and has applied everything that earlier leaders committed.
    Leader { term: u64 },
    /// The cluster has removed this node.
    Removed,
}

/// A change of the members.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberChange {
    /// Forms a new cluster. Names and addresses of its voters.
    Init {
        voters: Vec<(String, String)>,
    },
    Promote {
        node: String,
    },
    Demote {
        node: String,
    },
    Remove {
        node: String,
    },
    /// Writes a snapshot and compacts the log of the node that is asked.
    Snapshot,
    /// Replaces the state of the whole cluster by that of a backup.
    Restore {
        backup: Vec<u8>,
    },
}

/// Why the cluster did not do something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ConsensusError {
    #[error("this node does not lead{}", .leader.as_ref().map(|name| format!(": {name} does")).unwrap_or_default())]
    NotLeader { leader: Option<String> },
    /// The outcome is unknown: the change may still be made.
    #[error("no quorum answered in time: the change may or may not be made later")]
    Unknown,
    #[error("no leader is known: this node reaches no quorum")]
    NoQuorum,
    /// The request was wrong.
    #[error("{0}")]
    Invalid(String),
    #[error("the node is stopping")]
    Stopping,
    #[error("the cluster has removed this node")]
    Removed,
}

/// What a node knows of its cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterStatus {
    pub name: String,
    /// The name of this node.
    pub node: String,
    /// The name of the leader, if one is known.
    pub leader: Option<String>,
    pub term: u64,
    /// The last transaction that this node has applied.
    pub revision: Revision,
    pub members: Vec<Member>,
}

/// One member of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    pub name: String,
    pub region: String,
    pub role: MemberRole,
    pub address: String,
    /// How many log entries the member has, as far as the leader knows; `None` at other nodes.
    pub log_index: Option<u64>,
    /// The last revision that the member has applied; `None` if it did not say.
    pub revision: Option<Revision>,
    /// Milliseconds since the leader last heard of it; `None` at other nodes.
    pub last_seen_ms: Option<u64>,
}

/// What a member is in the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MemberRole {
    Leader,
    Voter,
    Learner,
}

impl MemberRole {
    /// The name in JSON and on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Leader => "leader",
            Self::Voter => "voter",
            Self::Learner => "learner",
        }
    }
}

/// The database that operators write in, as the leader of the cluster reads it. Every call has a deadline.
pub trait ChangeSource: Send + Sync + 'static {
    /// The transactions after `mark`, in commit order, at most `max` of them.
    fn changes_after(&self, mark: Mark, max: usize) -> BoxFuture<'_, Result<Changes, DatabaseError>>;
    /// All of the configuration, as of one instant.
    fn read_all(&self) -> BoxFuture<'_, Result<Snapshot, DatabaseError>>;
    /// Waits until the database may have changed, at most until the next poll is due.
    fn wait_for_change(&self) -> BoxFuture<'_, ()>;
    /// Replaces the table of refused changes.
    fn report_refused(&self, refused: &[Refused]) -> BoxFuture<'_, Result<(), DatabaseError>>;
    /// Writes what the cluster has applied and the database lacks, as one transaction whose revision is above
    /// `state.mark()`. Rows that the database changed by itself, after it had parted from the cluster, are kept.
    fn restore_missing(&self, state: Arc<PlaneState>) -> BoxFuture<'_, Result<(), DatabaseError>>;
    /// Makes partitions for the days to come, and removes what is older than its retention. The leader calls it now and
    /// then.
    fn maintain(&self) -> BoxFuture<'_, Result<(), DatabaseError>> {
        Box::pin(std::future::ready(Ok(())))
    }
}

/// What the database has after a mark.
#[derive(Clone, Debug, PartialEq)]
pub enum Changes {
    Next(Vec<Transaction>),
    /// The database has removed the log at the mark, because it is old.
    Pruned,
    /// The database does not have the mark, and its log is complete there: it lacks transactions that the cluster has
    /// applied.
    Diverged,
}

/// Why the database did not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DatabaseError {
    #[error("PostgreSQL does not answer: {0}")]
    Unavailable(String),
    /// Another transaction was in the way. The same call may succeed later.
    #[error("PostgreSQL is busy: {0}")]
    Busy(String),
    /// A commit was sent, and no answer came.
    #[error("PostgreSQL did not confirm the commit in time: it may or may not be made")]
    UnknownOutcome,
    /// The database's rules revision is not the expected one.
    #[error("the rules have changed meanwhile: their revision in PostgreSQL is {current}")]
    Stale { current: Revision },
    #[error("{0} does not exist")]
    NotFound(String),
    #[error("{0} exists already")]
    Exists(String),
    /// A constraint of the database.
    #[error("{0}")]
    Invalid(String),
}

/// Who makes an edit, for the audit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub name: String,
    pub role: AdminRole,
}

/// What the holder of an admin token may do. A later role may do what an earlier one may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AdminRole {
    Viewer,
    Editor,
    Owner,
}

impl AdminRole {
    /// The name in JSON, on the command line and in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Viewer => "viewer",
            Self::Editor => "editor",
            Self::Owner => "owner",
        }
    }

    /// The role of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Viewer, Self::Editor, Self::Owner].into_iter().find(|role| role.as_str() == name)
    }
}

impl std::fmt::Display for AdminRole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// One edit of an operator. It is one transaction of the database.
#[derive(Clone, Debug, PartialEq)]
pub enum Edit {
    /// Replaces the whole rule book. Rows that stay the same are not written.
    ReplaceRules(Arc<Rules>),
    /// Puts one limit, behind the others of its domain if it is new. Makes the domain if there is none.
    PutLimit {
        domain: String,
        limit: Box<Limit>,
    },
    RemoveLimit {
        domain: String,
        name: String,
    },
    PutTier {
        tier: String,
        description: String,
    },
    RemoveTier {
        tier: String,
    },
    PutUser(UserRow),
    RemoveUser {
        user: String,
    },
    CreateKey {
        key: KeyRow,
        /// The first characters of the key, by which people recognise it.
        prefix: String,
    },
    RevokeKey {
        key_id: String,
        at_ms: u64,
    },
    /// Creates `key` for the user of `key_id`, with the same tier, and lets the old key expire at `old_expires_at_ms`.
    /// If `key` has no expiry, it gets that of the old key.
    RotateKey {
        key_id: String,
        key: Box<KeyRow>,
        prefix: String,
        old_expires_at_ms: u64,
    },
    PutSettings(Vec<(String, Value)>),
    CreateToken {
        name: String,
        role: AdminRole,
        /// The SHA-256 of the token.
        hash: KeyHash,
    },
    /// Records something that changed no row, such as a change of the cluster's members.
    Record {
        action: String,
        target: String,
    },
}

/// Edits and reads of operators. Every call has a deadline.
pub trait ConfigStore: Send + Sync + 'static {
    /// Makes an edit. Rules are written only if the database's rules revision is `expected`.
    fn edit(&self, actor: &Actor, edit: Edit, expected: Option<Revision>)
    -> BoxFuture<'_, Result<Mark, DatabaseError>>;
    /// The role of an admin token; `None` if there is no such token.
    fn token(&self, hash: KeyHash) -> BoxFuture<'_, Result<Option<Actor>, DatabaseError>>;
    /// Rows of a list, at most `page.size`.
    fn list(&self, list: List, page: Page) -> BoxFuture<'_, Result<Listed, DatabaseError>>;
    /// The rules as of a revision; `None` if the history does not reach back to it.
    fn rules_at(&self, revision: Revision) -> BoxFuture<'_, Result<Option<Rules>, DatabaseError>>;
}

/// What can be listed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum List {
    /// One tier, or all.
    Tiers { tier: Option<String> },
    /// One user, or all.
    Users { user: Option<String> },
    /// Of one user, or of all.
    Keys { user: Option<String> },
    /// Revisions of the rules, the newest first.
    History,
    /// The newest first.
    Audit,
}

/// A part of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// At most this many rows, 1 to 1000.
    pub size: u32,
    /// The `next` of the page before.
    pub after: Option<String>,
}

/// Rows of a list as JSON objects, in the form that the admin API shows.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listed {
    pub rows: Vec<Value>,
    /// Where the next page begins; `None` at the end.
    pub next: Option<String>,
}

/// Looks API keys up, at the replica of the region.
pub trait KeyDirectory: Send + Sync + 'static {
    /// What a server knows of a key, with the revision that it is at. `state` is that of the asking node. A server
    /// whose history is not that of the state, such as one that was promoted without some transactions, has the
    /// revision 0: every change that the cluster remembers takes precedence over what it knows. The primary is asked if
    /// what the replica knows does not settle the matter, such as a new key whose user it lacks.
    fn look_up(&self, hash: KeyHash, state: Arc<PlaneState>) -> BoxFuture<'_, Result<CachedKey, DatabaseError>>;
}
