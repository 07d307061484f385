//! What the database says has changed, and what the leader proposes.

use std::fmt;

use limiter::Revision;
use limiter::rules::{Limit, Rules};
use serde::{Deserialize, Serialize};

use super::identity::{KeyHash, KeyRow, UserRow};
use super::refusal::Refused;
use super::state::{DomainTerms, PlaneState};

/// A random number of 128 bits that the database draws for each transaction which changes the configuration. Two
/// servers that were promoted independently never have the same revision with the same id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CommitId(pub u128);

impl fmt::Display for CommitId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl From<CommitId> for String {
    fn from(id: CommitId) -> Self {
        id.to_string()
    }
}

impl TryFrom<String> for CommitId {
    type Error = std::num::ParseIntError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        u128::from_str_radix(&text, 16).map(Self)
    }
}

/// A place in the history of the database: the revision of a transaction and its id.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    pub revision: Revision,
    pub id: CommitId,
}

/// One committed transaction of the database.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Transaction {
    pub mark: Mark,
    /// It changed rules in the database, whether they are in force or refused.
    pub of_rules: bool,
    pub changes: Vec<Change>,
}

impl Transaction {
    /// A transaction as the database has it.
    pub fn new(mark: Mark, changes: Vec<Change>) -> Self {
        Self { mark, of_rules: changes.iter().any(Change::is_of_rules), changes }
    }
}

/// One changed row. A row that is put replaces the row with the same name.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Change {
    PutDomain {
        domain: String,
        terms: DomainTerms,
    },
    /// Removes a domain and its limits.
    RemoveDomain {
        domain: String,
    },
    PutLimit {
        domain: String,
        /// Limits of a domain are in the order of their positions, then of their names.
        position: i32,
        limit: Box<Limit>,
    },
    RemoveLimit {
        domain: String,
        name: String,
    },
    /// A row of `rate_limit_rules` that is no limit. It is never proposed.
    UnreadableLimit {
        domain: String,
        name: String,
        /// Each with its field.
        errors: Vec<String>,
    },
    PutSetting {
        name: String,
        value: serde_json::Value,
    },
    RemoveSetting {
        name: String,
    },
    PutUser(UserRow),
    RemoveUser {
        user: String,
    },
    PutKey(KeyRow),
    RemoveKey {
        hash: KeyHash,
    },
}

impl Change {
    /// True if the change is of a user or a key. It is in force even if other changes of its transaction are refused:
    /// each says what the database holds.
    pub const fn is_of_identity(&self) -> bool {
        matches!(self, Self::PutUser(_) | Self::RemoveUser { .. } | Self::PutKey(_) | Self::RemoveKey { .. })
    }

    /// The row that the change is about, such as `limit api/free-per-minute`. Different rows have different names.
    pub fn row(&self) -> String {
        match self {
            Self::PutDomain { domain, .. } | Self::RemoveDomain { domain } => format!("domain {domain}"),
            Self::PutLimit { domain, limit, .. } => format!("limit {domain}/{}", limit.name),
            Self::RemoveLimit { domain, name } | Self::UnreadableLimit { domain, name, .. } => {
                format!("limit {domain}/{name}")
            }
            Self::PutSetting { name, .. } | Self::RemoveSetting { name } => format!("setting {name}"),
            Self::PutUser(UserRow { user, .. }) | Self::RemoveUser { user } => format!("user {user}"),
            Self::PutKey(key) => format!("key {}", key.key_id),
            Self::RemoveKey { .. } => "a key".to_owned(),
        }
    }

    /// True if the change may change the rule book.
    pub const fn is_of_rules(&self) -> bool {
        matches!(
            self,
            Self::PutDomain { .. }
                | Self::RemoveDomain { .. }
                | Self::PutLimit { .. }
                | Self::RemoveLimit { .. }
                | Self::UnreadableLimit { .. }
        )
    }
}

/// All of the configuration at one mark, without users and keys: those are looked up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    pub mark: Mark,
    /// The revision of the last transaction that changed rules.
    pub rules_revision: Revision,
    /// [`Change::PutDomain`], [`Change::PutLimit`], [`Change::UnreadableLimit`] and [`Change::PutSetting`], each row
    /// once.
    pub rows: Vec<Change>,
}

/// What the leader proposes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Command {
    /// Applies committed transactions, if the state is at `after`.
    Apply {
        after: Mark,
        transactions: Vec<Transaction>,
        /// Every refused transaction of the database that is still not in force, with those of `transactions`.
        refused: Vec<Refused>,
    },
    /// Replaces rules and settings by those of a snapshot, if the state is at `after`: the database no longer has the
    /// log from there on.
    Replace { after: Mark, snapshot: Snapshot, refused: Vec<Refused> },
    /// Replaces the whole state by that of a backup.
    Restore { state: Box<PlaneState> },
}

/// What a command did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// False if the state was elsewhere: another leader was faster.
    pub applied: bool,
    /// Where the state is now.
    pub mark: Mark,
}

impl Snapshot {
    /// The rules of the snapshot. Rows that cannot be read are left out.
    pub fn rules(&self) -> Rules {
        let mut state = PlaneState::default();
        state.apply(Command::Replace { after: Mark::default(), snapshot: self.clone(), refused: Vec::new() });
        state.rules()
    }
}
