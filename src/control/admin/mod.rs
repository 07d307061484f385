//! The service behind the admin front ends: it checks what operators ask, writes it to the database, and waits until
//! this node has it in force.

mod keys;
mod rules;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use limiter::Revision;
use limiter::rules::{Path, Problem, RuleBook, Rules};
use plane::{KeyHash, Mark, PlaneState, Refused, check_setting};
use serde_json::Value;
use subtle::ConstantTimeEq as _;

use self::keys::MadeKey;
pub use self::keys::Random;
use crate::ports::admin::{
    Actor, AdminError, AdminRole, Changed, ClusterStatus, ConfigChange, ConfigPlane, Expiry, List, Listed,
    MemberChange, NewKey, Page,
};
use crate::ports::plane::{ConfigStore, Consensus, ConsensusError, DatabaseError, Edit, Role};
use crate::ports::{BoxFuture, Clock, Gossip, RegionStatus, RuleSource};

/// How long a change may take until it is in force at this node. Then the answer says that it is not yet.
const IN_FORCE_TIMEOUT: Duration = Duration::from_secs(3);
/// How long a change without a precondition waits for this node to learn of another change, before it is tried again.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a change without a precondition is tried, if other changes are faster.
const MAX_TRIES: usize = 8;
/// A node that heard of no leader for this long accepts no changes.
const MAX_SILENCE: Duration = Duration::from_secs(5);
/// The longest time from now at which a key may expire: 100 years.
const MAX_EXPIRY_MS: u64 = 100 * 365 * 86_400_000;

/// Where the configuration of a node comes from.
pub enum Source {
    /// A rule file. Nothing can be changed here.
    File(PathBuf),
    Cluster {
        consensus: Arc<dyn Consensus>,
        /// `None` if the node has no section `postgres`.
        store: Option<Arc<dyn ConfigStore>>,
    },
}

/// The configuration plane of a node, for its admin front ends.
pub struct AdminService {
    pub rules: Arc<dyn RuleSource>,
    pub source: Source,
    /// The talk with other regions, if there is any.
    pub gossip: Option<Arc<dyn Gossip>>,
    /// The SHA-256 of the token in `admin.token_file`. Its holder is an owner.
    pub owner: Option<KeyHash>,
    pub clock: Arc<dyn Clock>,
    pub random: Random,
}

impl AdminService {
    fn consensus(&self) -> Result<&Arc<dyn Consensus>, AdminError> {
        match &self.source {
            Source::File(file) => Err(AdminError::FileMode { file: file.display().to_string() }),
            Source::Cluster { consensus, .. } => Ok(consensus),
        }
    }

    fn store(&self) -> Result<&dyn ConfigStore, AdminError> {
        match &self.source {
            Source::File(file) => Err(AdminError::FileMode { file: file.display().to_string() }),
            Source::Cluster { store: Some(store), .. } => Ok(&**store),
            Source::Cluster { store: None, .. } => {
                Err(AdminError::Unavailable("this node has no PostgreSQL: its settings lack `postgres`".to_owned()))
            }
        }
    }

    fn now_ms(&self) -> u64 {
        self.clock.wall().0 / 1000
    }

    async fn make(
        &self,
        actor: &Actor,
        change: ConfigChange,
        expected: Option<Revision>,
    ) -> Result<Changed, AdminError> {
        let (store, consensus) = (self.store()?, self.consensus()?);
        let removed = *consensus.role().borrow() == Role::Removed;
        if removed || consensus.last_contact().is_none_or(|silence| silence > MAX_SILENCE) {
            let why = if removed { ConsensusError::Removed } else { ConsensusError::NoQuorum };
            return Err(AdminError::Unavailable(format!("nothing was changed: {why}")));
        }
        let change = match change {
            ConfigChange::Rollback(revision) => ConfigChange::PutRules(self.old_rules(revision).await?),
            change => change,
        };
        if is_of_rules(&change) {
            let mark = self.edit_rules(store, consensus, actor, &change, expected).await?;
            return Ok(Changed { revision: mark.revision, in_force: self.is_in_force(mark).await, key: None });
        }
        let (edit, key) = self.edit_of(change)?;
        let made = |error: DatabaseError| match (&key, of_database(error)) {
            // The key may exist, and nobody has seen it. Its name is needed to revoke it.
            (Some(key), AdminError::UnknownOutcome(why)) => {
                AdminError::UnknownOutcome(format!("{why}: if the key {} is listed, revoke it", key.key_id))
            }
            (_, error) => error,
        };
        let mark = store.edit(actor, edit, None).await.map_err(made)?;
        Ok(Changed { revision: mark.revision, in_force: self.is_in_force(mark).await, key })
    }

    /// Checks a change of the rules against the book in force, and writes it if the database has no newer rules.
    async fn edit_rules(
        &self,
        store: &dyn ConfigStore,
        consensus: &Arc<dyn Consensus>,
        actor: &Actor,
        change: &ConfigChange,
        expected: Option<Revision>,
    ) -> Result<Mark, AdminError> {
        let mut tries = 1;
        loop {
            let state = Arc::clone(&consensus.state().borrow());
            if let Some(expected) = expected
                && expected != state.rules_revision()
            {
                return Err(AdminError::Stale { current: state.rules_revision() });
            }
            let of_database_rules = state.database_rules_revision();
            let change = change.clone();
            // To compile a large book takes long.
            let checked = tokio::task::spawn_blocking(move || {
                let book = RuleBook::compile(Arc::new(state.rules()), state.rules_revision());
                rules::edit(&book.map_err(AdminError::Invalid)?, change)
            });
            let edit = checked.await.map_err(|_| AdminError::Internal("a check of rules panicked".to_owned()))??;
            match store.edit(actor, edit, Some(of_database_rules)).await {
                Err(DatabaseError::Stale { current }) if expected.is_none() && tries < MAX_TRIES => {
                    tries += 1;
                    let mut states = consensus.state();
                    let newer = |state: &Arc<PlaneState>| state.database_rules_revision() >= current;
                    // If this node does not learn of the other change in time, the next try fails as this one.
                    let _ = tokio::time::timeout(CATCH_UP_TIMEOUT, states.wait_for(newer)).await;
                }
                edited => return edited.map_err(of_database),
            }
        }
    }

    async fn old_rules(&self, revision: Revision) -> Result<Rules, AdminError> {
        if revision == self.rules.follow().borrow().revision {
            return Ok(Rules::clone(self.rules.follow().borrow().rules()));
        }
        let rules = self.store()?.rules_at(revision).await.map_err(of_database)?;
        rules.ok_or_else(|| AdminError::NotFound(format!("the revision {revision} of the rules")))
    }

    /// Waits until this node has put a transaction in force, or refused it. True if it is in force.
    async fn is_in_force(&self, mark: Mark) -> bool {
        let Ok(consensus) = self.consensus() else { return false };
        let (mut states, mut books) = (consensus.state(), self.rules.follow());
        let wait = async {
            let state = states.wait_for(|state| state.mark().revision >= mark.revision).await;
            let Ok(state) = state.map(|state| Arc::clone(&state)) else { return false };
            if state.refused().iter().any(|refused| refused.revision == mark.revision) {
                return false;
            }
            books.wait_for(|book| book.revision >= state.rules_revision()).await.is_ok()
        };
        tokio::time::timeout(IN_FORCE_TIMEOUT, wait).await.unwrap_or(false)
    }

    /// What a change of anything but the rules writes, with the key that it makes.
    fn edit_of(&self, change: ConfigChange) -> Result<(Edit, Option<NewKey>), AdminError> {
        let edit = match change {
            ConfigChange::PutTier { tier, description } => {
                rules::check_name("tier", &tier)?;
                Edit::PutTier { tier, description }
            }
            ConfigChange::RemoveTier { tier } => Edit::RemoveTier { tier },
            ConfigChange::PutUser(user) => {
                rules::check_name("user", &user.user)?;
                Edit::PutUser(user)
            }
            ConfigChange::RemoveUser { user } => Edit::RemoveUser { user },
            ConfigChange::CreateKey { user, tier, expires } => {
                rules::check_name("user", &user)?;
                let MadeKey { row, api_key, prefix } = keys::make(self.random, user, tier, self.expiry(expires)?)?;
                let key = NewKey { key_id: row.key_id.clone(), api_key };
                return Ok((Edit::CreateKey { key: row, prefix }, Some(key)));
            }
            ConfigChange::RevokeKey { key_id } => Edit::RevokeKey { key_id, at_ms: self.now_ms() },
            ConfigChange::RotateKey { key_id, overlap_ms, expires } => {
                let old_expires_at_ms = self.expiry_after(overlap_ms, "overlap")?;
                // The database takes the user, the tier and, without another one, the expiry from the old key.
                let expires_at_ms = self.expiry(expires)?;
                let MadeKey { row, api_key, prefix } = keys::make(self.random, String::new(), None, expires_at_ms)?;
                let key = NewKey { key_id: row.key_id.clone(), api_key };
                let edit = Edit::RotateKey { key_id, key: Box::new(row), prefix, old_expires_at_ms };
                return Ok((edit, Some(key)));
            }
            ConfigChange::PutSettings(settings) => {
                let invalid = settings.iter().filter_map(|(name, value)| {
                    let error = check_setting(name, value).err()?;
                    Some(Problem { path: Path::default().field(name), message: error.to_string() })
                });
                let invalid: Vec<Problem> = invalid.collect();
                if !invalid.is_empty() {
                    return Err(AdminError::Invalid(invalid));
                }
                Edit::PutSettings(settings)
            }
            ConfigChange::PutRules(_)
            | ConfigChange::PutLimit { .. }
            | ConfigChange::RemoveLimit { .. }
            | ConfigChange::Rollback(_) => return Err(AdminError::Internal("a change of rules".to_owned())),
        };
        Ok((edit, None))
    }

    fn expiry(&self, expires: Expiry) -> Result<Option<u64>, AdminError> {
        match expires {
            Expiry::Never => Ok(None),
            Expiry::After(ms) => self.expiry_after(ms, "expires").map(Some),
            Expiry::At(at_ms) if at_ms <= self.now_ms() => {
                Err(expected("expires", "expected an instant in the future"))
            }
            Expiry::At(at_ms) => self.expiry_after(at_ms - self.now_ms(), "expires").map(|_| Some(at_ms)),
        }
    }

    fn expiry_after(&self, ms: u64, field: &str) -> Result<u64, AdminError> {
        if ms > MAX_EXPIRY_MS {
            return Err(expected(field, "expected at most 36500d"));
        }
        Ok(self.now_ms().saturating_add(ms))
    }
}

fn expected(field: &str, message: &str) -> AdminError {
    AdminError::Invalid(vec![Problem { path: Path::default().field(field), message: message.to_owned() }])
}

const fn is_of_rules(change: &ConfigChange) -> bool {
    matches!(change, ConfigChange::PutRules(_) | ConfigChange::PutLimit { .. } | ConfigChange::RemoveLimit { .. })
}

fn of_database(error: DatabaseError) -> AdminError {
    match error {
        DatabaseError::Unavailable(_) | DatabaseError::Busy(_) => AdminError::Unavailable(error.to_string()),
        DatabaseError::UnknownOutcome => AdminError::UnknownOutcome(error.to_string()),
        DatabaseError::Stale { current } => AdminError::Stale { current },
        DatabaseError::NotFound(what) => AdminError::NotFound(what),
        DatabaseError::Exists(what) => AdminError::Exists(what),
        DatabaseError::Invalid(message) => AdminError::Invalid(vec![Problem { path: Path::default(), message }]),
    }
}

fn of_consensus(error: ConsensusError) -> AdminError {
    match error {
        ConsensusError::Unknown => AdminError::UnknownOutcome(error.to_string()),
        ConsensusError::Invalid(message) => AdminError::Invalid(vec![Problem { path: Path::default(), message }]),
        other => AdminError::Unavailable(other.to_string()),
    }
}

/// What the audit says of a change of members.
fn described(change: &MemberChange) -> (&'static str, String) {
    match change {
        MemberChange::Init { voters } => {
            let voters: Vec<String> = voters.iter().map(|(name, address)| format!("{name}={address}")).collect();
            ("cluster init", voters.join(","))
        }
        MemberChange::Promote { node } => ("cluster promote", node.clone()),
        MemberChange::Demote { node } => ("cluster demote", node.clone()),
        MemberChange::Remove { node } => ("cluster remove", node.clone()),
        MemberChange::Snapshot => ("cluster snapshot", String::new()),
        MemberChange::Restore { .. } => ("cluster restore", String::new()),
    }
}

impl ConfigPlane for AdminService {
    fn owner(&self, token: &KeyHash) -> Option<Actor> {
        let is_owner = self.owner.is_some_and(|owner| bool::from(owner.0.ct_eq(&token.0)));
        is_owner.then(|| Actor { name: "admin.token_file".to_owned(), role: AdminRole::Owner })
    }

    fn actor(&self, token: KeyHash) -> BoxFuture<'_, Result<Option<Actor>, AdminError>> {
        Box::pin(async move {
            match &self.source {
                Source::Cluster { store: Some(store), .. } => store.token(token).await.map_err(of_database),
                _ => Ok(None),
            }
        })
    }

    fn book(&self) -> Arc<RuleBook> {
        Arc::clone(&self.rules.follow().borrow())
    }

    fn rules_at(&self, revision: Revision) -> BoxFuture<'_, Result<Rules, AdminError>> {
        Box::pin(self.old_rules(revision))
    }

    fn change(
        &self,
        actor: Actor,
        change: ConfigChange,
        expected: Option<Revision>,
    ) -> BoxFuture<'_, Result<Changed, AdminError>> {
        Box::pin(async move { self.make(&actor, change, expected).await })
    }

    fn list(&self, list: List, page: Page) -> BoxFuture<'_, Result<Listed, AdminError>> {
        Box::pin(async move { self.store()?.list(list, page).await.map_err(of_database) })
    }

    fn refused(&self) -> Result<Vec<Refused>, AdminError> {
        match &self.source {
            Source::File(_) => Ok(Vec::new()),
            Source::Cluster { consensus, .. } => Ok(consensus.state().borrow().refused().to_vec()),
        }
    }

    fn settings(&self) -> Result<BTreeMap<String, Value>, AdminError> {
        Ok(self.consensus()?.state().borrow().settings().clone())
    }

    fn cluster(&self) -> Result<ClusterStatus, AdminError> {
        match &self.source {
            Source::File(_) => Ok(ClusterStatus { revision: self.book().revision, ..ClusterStatus::default() }),
            Source::Cluster { consensus, .. } => Ok(consensus.status()),
        }
    }

    fn regions(&self) -> Vec<RegionStatus> {
        self.gossip.as_ref().map(|gossip| gossip.status()).unwrap_or_default()
    }

    fn backup(&self) -> Result<Vec<u8>, AdminError> {
        self.consensus()?.backup().map_err(AdminError::Internal)
    }

    fn administer(&self, actor: Actor, change: MemberChange) -> BoxFuture<'_, Result<(), AdminError>> {
        Box::pin(async move {
            let (action, target) = described(&change);
            let done = self.consensus()?.administer(change).await;
            let target = match &done {
                Ok(()) => target,
                Err(ConsensusError::Unknown) => format!("{target} (outcome unknown)"),
                Err(error) => return Err(of_consensus(error.clone())),
            };
            tracing::info!(actor = actor.name, action, target, "an operator changed the cluster");
            // The cluster must be manageable without PostgreSQL. The log has the change in any case.
            if let Ok(store) = self.store() {
                let record = Edit::Record { action: action.to_owned(), target };
                if let Err(error) = store.edit(&actor, record, None).await {
                    tracing::warn!(%error, action, "the audit does not have this change of the cluster");
                }
            }
            done.map_err(of_consensus)
        })
    }
}
