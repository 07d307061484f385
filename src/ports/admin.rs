//! What operators ask of a node: the seam between the admin front ends and the configuration plane.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use limiter::Revision;
use limiter::rules::{Limit, Problem, RuleBook, Rules};
use plane::{KeyHash, Refused, UserRow};
use serde_json::Value;

pub use super::plane::{Actor, AdminRole, ClusterStatus, List, Listed, MemberChange, Page};
use super::{BoxFuture, RegionStatus};

/// Reads and changes the configuration. Every call has a deadline.
pub trait ConfigPlane: Send + Sync + 'static {
    /// The holder of `admin.token_file`, if this is the SHA-256 of that token. It takes the same time for every token.
    fn owner(&self, token: &KeyHash) -> Option<Actor>;
    /// Whom an admin token of PostgreSQL belongs to, by the SHA-256 of the token; `None` if it is not known.
    fn actor(&self, token: KeyHash) -> BoxFuture<'_, Result<Option<Actor>, AdminError>>;
    /// The rule book in force at this node.
    fn book(&self) -> Arc<RuleBook>;
    /// The rules as of a revision.
    fn rules_at(&self, revision: Revision) -> BoxFuture<'_, Result<Rules, AdminError>>;
    /// Makes a change, as a whole or not at all. With `expected`, only if the rule book in force is at that revision.
    fn change(
        &self,
        actor: Actor,
        change: ConfigChange,
        expected: Option<Revision>,
    ) -> BoxFuture<'_, Result<Changed, AdminError>>;
    /// Rows of a list.
    fn list(&self, list: List, page: Page) -> BoxFuture<'_, Result<Listed, AdminError>>;
    /// The transactions in the database that are not in force. With a rule file there are none.
    fn refused(&self) -> Result<Vec<Refused>, AdminError>;
    /// The settings that the cluster shares.
    fn settings(&self) -> Result<BTreeMap<String, Value>, AdminError>;
    /// What this node knows of its cluster. With a rule file, it has only the revision of the rules.
    fn cluster(&self) -> Result<ClusterStatus, AdminError>;
    /// What this node knows of the other regions.
    fn regions(&self) -> Vec<RegionStatus>;
    /// The state of the cluster as a file.
    fn backup(&self) -> Result<Vec<u8>, AdminError>;
    /// Changes the members of the cluster, and records it in the audit if PostgreSQL answers.
    fn administer(&self, actor: Actor, change: MemberChange) -> BoxFuture<'_, Result<(), AdminError>>;
}

/// A change that an operator asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum ConfigChange {
    /// Replaces the whole rule book.
    PutRules(Rules),
    PutLimit {
        domain: String,
        limit: Box<Limit>,
    },
    RemoveLimit {
        domain: String,
        name: String,
    },
    /// Puts the rules as of a revision in force again, under a new revision.
    Rollback(Revision),
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
        user: String,
        tier: Option<String>,
        expires: Expiry,
    },
    RevokeKey {
        key_id: String,
    },
    /// Creates a key for the same user. The old key expires after `overlap_ms`. With `Expiry::Never`, the new key
    /// expires when the old one would have.
    RotateKey {
        key_id: String,
        overlap_ms: u64,
        expires: Expiry,
    },
    PutSettings(Vec<(String, Value)>),
}

/// When a key expires.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Expiry {
    #[default]
    Never,
    /// After this time, in milliseconds.
    After(u64),
    /// At this instant, in milliseconds since the epoch.
    At(u64),
}

/// A change that was committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    pub revision: Revision,
    /// True if this node has put the change in force. Otherwise it follows.
    pub in_force: bool,
    /// The new key. It is shown this once.
    pub key: Option<NewKey>,
}

/// A new API key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewKey {
    pub key_id: String,
    pub api_key: Secret,
}

/// A text that no log and no error shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}

/// Why a call of an operator was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// Fields that are not valid. Nothing was changed.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Problem>),
    #[error("the rules have changed meanwhile: their revision is {current}")]
    Stale { current: Revision },
    #[error("the rules come from the file {file}: change them there")]
    FileMode { file: String },
    #[error("{0} does not exist")]
    NotFound(String),
    #[error("{0} exists already")]
    Exists(String),
    /// Nothing was changed.
    #[error("{0}")]
    Unavailable(String),
    /// The change may or may not be made.
    #[error("{0}")]
    UnknownOutcome(String),
    #[error("this node failed: {0}")]
    Internal(String),
}
