//! The recent changes of users and API keys.
//!
//! Users and keys may be many, so a node looks them up and caches what it found. A change travels to every node, and
//! says which cached rows are too old. Changes are remembered up to a bound. Keys that ended are remembered apart from
//! other changes, so that an import of many keys does not make a node forget revoked ones.

use imbl::{OrdMap, OrdSet};
use limiter::Revision;
use serde::{Deserialize, Serialize};

use super::change::Change;
use super::identity::{KeyHash, KeyRow, UserRow};

/// The most changes that are remembered.
const MAX_REMEMBERED: usize = 20_000;
/// The most keys that were revoked or removed and are remembered.
const MAX_ENDED: usize = 100_000;

/// The row of a change and its revision. `None` if the row was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RowVersion<T> {
    pub revision: Revision,
    pub row: Option<T>,
}

/// The name of a row.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum RowId {
    Key(KeyHash),
    User(String),
}

/// The recent changes of users and API keys, the newest of each row.
///
/// The maps are persistent: a clone shares what stays the same, and a change costs as much as its path in a tree.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Stored")]
pub struct RecentChanges {
    keys: OrdMap<KeyHash, RowVersion<KeyRow>>,
    users: OrdMap<String, RowVersion<UserRow>>,
    /// A look-up at an older revision may have missed a change that is forgotten.
    forgotten: Revision,
    /// A look-up at an older revision may have missed that a key ended.
    forgotten_ended: Revision,
    /// The remembered changes by age: keys that ended, and the others.
    #[serde(skip)]
    ended: OrdSet<(Revision, RowId)>,
    #[serde(skip)]
    others: OrdSet<(Revision, RowId)>,
}

/// What is stored of [`RecentChanges`].
#[derive(Deserialize)]
struct Stored {
    keys: OrdMap<KeyHash, RowVersion<KeyRow>>,
    users: OrdMap<String, RowVersion<UserRow>>,
    forgotten: Revision,
    forgotten_ended: Revision,
}

impl From<Stored> for RecentChanges {
    fn from(stored: Stored) -> Self {
        let Stored { keys, users, forgotten, forgotten_ended } = stored;
        let (mut ended, mut others) = (OrdSet::new(), OrdSet::new());
        for (hash, version) in &keys {
            let order = if has_ended(version) { &mut ended } else { &mut others };
            order.insert((version.revision, RowId::Key(*hash)));
        }
        others.extend(users.iter().map(|(user, version)| (version.revision, RowId::User(user.clone()))));
        Self { keys, users, forgotten, forgotten_ended, ended, others }
    }
}

fn has_ended(version: &RowVersion<KeyRow>) -> bool {
    version.row.as_ref().is_none_or(|key| key.revoked_at_ms.is_some())
}

fn pop_first(order: &mut OrdSet<(Revision, RowId)>) -> Option<(Revision, RowId)> {
    let first = order.get_min().cloned()?;
    order.remove(&first);
    Some(first)
}

impl RecentChanges {
    /// The newest change of a key.
    pub fn key(&self, hash: &KeyHash) -> Option<&RowVersion<KeyRow>> {
        self.keys.get(hash)
    }

    /// The newest change of a user.
    pub fn user(&self, user: &str) -> Option<&RowVersion<UserRow>> {
        self.users.get(user)
    }

    /// The revision below which changes may be forgotten.
    pub const fn forgotten(&self) -> Revision {
        self.forgotten
    }

    /// The revision below which ends of keys may be forgotten.
    pub const fn forgotten_ended(&self) -> Revision {
        self.forgotten_ended
    }

    /// Every remembered row that changed after `revision`, as a change.
    pub fn after(&self, revision: Revision) -> Vec<Change> {
        let users = self.users.iter().filter(|(_, version)| version.revision > revision);
        let users = users.map(|(user, version)| match &version.row {
            Some(row) => Change::PutUser(row.clone()),
            None => Change::RemoveUser { user: user.clone() },
        });
        let keys = self.keys.iter().filter(|(_, version)| version.revision > revision);
        let keys = keys.map(|(hash, version)| match &version.row {
            Some(row) => Change::PutKey(row.clone()),
            None => Change::RemoveKey { hash: *hash },
        });
        // A key needs its user.
        users.chain(keys).collect()
    }

    /// Remembers a change of this revision. Changes of other rows are ignored.
    pub fn remember(&mut self, revision: Revision, change: &Change) {
        match change {
            Change::PutKey(key) => self.set_key(key.hash, RowVersion { revision, row: Some(key.clone()) }),
            Change::RemoveKey { hash } => self.set_key(*hash, RowVersion { revision, row: None }),
            Change::PutUser(user) => self.set_user(&user.user, RowVersion { revision, row: Some(user.clone()) }),
            Change::RemoveUser { user } => self.set_user(user, RowVersion { revision, row: None }),
            _ => return,
        }
        self.forget_oldest();
    }

    /// Makes what a look-up found before `revision` count no longer. Keys that ended are still remembered: a database
    /// that lost their end gets it back.
    pub fn forget_until(&mut self, revision: Revision) {
        for (_, id) in std::mem::take(&mut self.others) {
            self.remove(&id);
        }
        self.forgotten = self.forgotten.max(revision);
        self.forgotten_ended = self.forgotten_ended.max(revision);
    }

    fn set_key(&mut self, hash: KeyHash, version: RowVersion<KeyRow>) {
        let (revision, ended) = (version.revision, has_ended(&version));
        if let Some(old) = self.keys.insert(hash, version) {
            let order = if has_ended(&old) { &mut self.ended } else { &mut self.others };
            order.remove(&(old.revision, RowId::Key(hash)));
        }
        let order = if ended { &mut self.ended } else { &mut self.others };
        order.insert((revision, RowId::Key(hash)));
    }

    fn set_user(&mut self, user: &str, version: RowVersion<UserRow>) {
        let revision = version.revision;
        if let Some(old) = self.users.insert(user.to_owned(), version) {
            self.others.remove(&(old.revision, RowId::User(user.to_owned())));
        }
        self.others.insert((revision, RowId::User(user.to_owned())));
    }

    fn forget_oldest(&mut self) {
        while self.others.len() > MAX_REMEMBERED {
            let Some((revision, id)) = pop_first(&mut self.others) else { return };
            self.forgotten = self.forgotten.max(revision);
            self.remove(&id);
        }
        while self.ended.len() > MAX_ENDED {
            let Some((revision, id)) = pop_first(&mut self.ended) else { return };
            self.forgotten_ended = self.forgotten_ended.max(revision);
            self.remove(&id);
        }
    }

    fn remove(&mut self, id: &RowId) {
        match id {
            RowId::Key(hash) => drop(self.keys.remove(hash)),
            RowId::User(user) => drop(self.users.remove(user)),
        }
    }
}
