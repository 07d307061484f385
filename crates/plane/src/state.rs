//! The replicated state of a node, and how commands change it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use limiter::Revision;
use limiter::rules::{Charge, Domain, Identity, Limit, OnIdentityFailure, Rules, Unmatched};
use serde::{Deserialize, Serialize};

use super::change::{Change, Command, Mark, Outcome, Snapshot, Transaction};
use super::recent::RecentChanges;
use super::refusal::Refused;

/// How many transactions the state remembers by their marks.
const MAX_HISTORY: usize = 1000;

/// What a domain says beside its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DomainTerms {
    pub charge: Charge,
    pub default: Unmatched,
    pub identity: Identity,
    pub on_identity_failure: OnIdentityFailure,
}

/// A limit and its place in its domain.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct PlacedLimit {
    position: i32,
    limit: Arc<Limit>,
}

#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
struct DomainState {
    terms: DomainTerms,
    limits: BTreeMap<String, PlacedLimit>,
}

/// Rules, settings and recent changes of identities, as of one committed transaction of the database.
///
/// A clone shares what has not changed, so that a node can publish its state after each command.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct PlaneState {
    /// The last transaction that is in the state, or was refused.
    mark: Mark,
    /// The last revision at which the rules changed. It is the revision of the rule book.
    rules_revision: Revision,
    /// The last revision at which somebody changed the rules in the database, in force or refused.
    database_rules_revision: Revision,
    domains: BTreeMap<String, Arc<DomainState>>,
    settings: BTreeMap<String, serde_json::Value>,
    recent: Arc<RecentChanges>,
    refused: Vec<Refused>,
    /// The marks of the last transactions, the newest last.
    history: VecDeque<Mark>,
}

impl PlaneState {
    pub const fn mark(&self) -> Mark {
        self.mark
    }

    /// The last transactions, at most 1,000, the newest last. A server that lacks the last of them has parted
    /// from this history behind the newest one that it has.
    pub fn history(&self) -> impl Iterator<Item = Mark> {
        self.history.iter().copied()
    }

    /// True if `mark` is one of the last transactions.
    pub fn has_passed(&self, mark: Mark) -> bool {
        let at = self.history.binary_search_by_key(&mark.revision, |known| known.revision);
        at.is_ok_and(|at| self.history[at] == mark)
    }

    pub const fn rules_revision(&self) -> Revision {
        self.rules_revision
    }

    pub const fn database_rules_revision(&self) -> Revision {
        self.database_rules_revision
    }

    pub fn recent(&self) -> &RecentChanges {
        &self.recent
    }

    pub const fn settings(&self) -> &BTreeMap<String, serde_json::Value> {
        &self.settings
    }

    pub fn refused(&self) -> &[Refused] {
        &self.refused
    }

    /// The rules, ready to be compiled: domains by name, limits by position and then by name.
    pub fn rules(&self) -> Rules {
        let domains = self.domains.iter().map(|(name, state)| {
            let mut limits: Vec<&PlacedLimit> = state.limits.values().collect();
            limits.sort_by_key(|placed| placed.position);
            let DomainTerms { charge, default, identity, on_identity_failure } = state.terms;
            let limits = limits.into_iter().map(|placed| Limit::clone(&placed.limit)).collect();
            Domain { domain: name.clone(), charge, default, identity, on_identity_failure, limits }
        });
        Rules { domains: domains.collect() }
    }

    /// Every row of a domain, as [`Snapshot::rows`] has them.
    pub fn domain_rows(&self, domain: &str) -> Vec<Change> {
        let Some(state) = self.domains.get(domain) else { return Vec::new() };
        let put = Change::PutDomain { domain: domain.to_owned(), terms: state.terms };
        let limits = state.limits.values().map(|placed| Change::PutLimit {
            domain: domain.to_owned(),
            position: placed.position,
            limit: Box::new(Limit::clone(&placed.limit)),
        });
        std::iter::once(put).chain(limits).collect()
    }

    /// Every row of the rules and settings, as [`Snapshot::rows`] has them.
    pub fn rows(&self) -> Vec<Change> {
        let settings = self.settings.iter();
        let settings = settings.map(|(name, value)| Change::PutSetting { name: name.clone(), value: value.clone() });
        self.domains.keys().flat_map(|domain| self.domain_rows(domain)).chain(settings).collect()
    }

    /// The changes that lead from the rules and settings of this state to those of `rows`.
    pub fn changes_to(&self, rows: &[Change]) -> Vec<Change> {
        let mut wanted = Self::default();
        rows.iter().for_each(|row| wanted.apply_change(Revision::NONE, row));
        let mut changes = Vec::new();
        for (domain, state) in &self.domains {
            match wanted.domains.get(domain) {
                None => changes.push(Change::RemoveDomain { domain: domain.clone() }),
                Some(wanted) => {
                    let removed = state.limits.keys().filter(|name| !wanted.limits.contains_key(*name));
                    let remove = |name: &String| Change::RemoveLimit { domain: domain.clone(), name: name.clone() };
                    changes.extend(removed.map(remove));
                }
            }
        }
        let removed = self.settings.keys().filter(|name| !wanted.settings.contains_key(*name));
        changes.extend(removed.map(|name| Change::RemoveSetting { name: name.clone() }));
        let puts = rows.iter().filter(|row| match row {
            Change::PutDomain { domain, terms } => self.domains.get(domain).is_none_or(|state| state.terms != *terms),
            Change::PutLimit { domain, position, limit } => {
                let placed = self.domains.get(domain).and_then(|state| state.limits.get(&limit.name));
                placed.is_none_or(|placed| placed.position != *position || *placed.limit != **limit)
            }
            Change::PutSetting { name, value } => self.settings.get(name) != Some(value),
            _ => false,
        });
        changes.extend(puts.cloned());
        changes
    }

    /// Applies a committed command. Equal states stay equal: nothing but the command counts.
    pub fn apply(&mut self, command: Command) -> Outcome {
        let applied = match command {
            Command::Apply { after, .. } | Command::Replace { after, .. } if after != self.mark => false,
            // Revisions never go back, whatever server the leader has read.
            Command::Replace { after, snapshot, .. }
                if after != Mark::default() && snapshot.mark.revision <= after.revision =>
            {
                false
            }
            Command::Apply { transactions, refused, .. } => {
                for transaction in &transactions {
                    let revision = transaction.mark.revision;
                    let is_refused = refused.iter().any(|refused| refused.revision == revision);
                    self.apply_transaction(transaction, !is_refused);
                }
                self.refused = refused;
                true
            }
            Command::Replace { snapshot, refused, .. } => {
                self.replace(&snapshot, refused);
                true
            }
            // A backup that is older than the state gets no newer by itself: revisions never go back.
            Command::Restore { state } => {
                let before = std::mem::replace(self, *state);
                self.rules_revision = before.rules_revision.next(self.rules_revision.0);
                if before.mark.revision > self.mark.revision {
                    // A backup must not revive a key that was revoked after it.
                    self.recent = before.recent;
                    self.mark.revision = before.mark.revision;
                    // The database has these transactions. They are not its own changes.
                    self.history = before.history;
                }
                self.forget_recent();
                true
            }
        };
        Outcome { applied, mark: self.mark }
    }

    /// Applies the changes of a transaction, in order. Those of rules and settings count only if they are `valid`.
    fn apply_transaction(&mut self, transaction: &Transaction, valid: bool) {
        let revision = transaction.mark.revision;
        for change in &transaction.changes {
            if valid || change.is_of_identity() {
                self.apply_change(revision, change);
            }
        }
        self.go_to(transaction.mark);
        // The leader leaves refused changes out of its proposal, and may add those that are valid by now.
        if valid && transaction.changes.iter().any(Change::is_of_rules) {
            self.rules_revision = revision;
        }
        if transaction.of_rules {
            self.database_rules_revision = revision;
        }
    }

    fn apply_change(&mut self, revision: Revision, change: &Change) {
        match change {
            Change::PutDomain { domain, terms } => self.domain_mut(domain).terms = *terms,
            Change::RemoveDomain { domain } => drop(self.domains.remove(domain)),
            Change::PutLimit { domain, position, limit } => {
                let placed = PlacedLimit { position: *position, limit: Arc::new(Limit::clone(limit)) };
                self.domain_mut(domain).limits.insert(limit.name.clone(), placed);
            }
            Change::RemoveLimit { domain, name } => {
                if let Some(state) = self.domains.get_mut(domain) {
                    Arc::make_mut(state).limits.remove(name);
                }
            }
            Change::UnreadableLimit { .. } => {}
            Change::PutSetting { name, value } => drop(self.settings.insert(name.clone(), value.clone())),
            Change::RemoveSetting { name } => drop(self.settings.remove(name)),
            Change::PutUser(_) | Change::RemoveUser { .. } | Change::PutKey(_) | Change::RemoveKey { .. } => {
                Arc::make_mut(&mut self.recent).remember(revision, change);
            }
        }
    }

    fn go_to(&mut self, mark: Mark) {
        self.mark = mark;
        self.history.push_back(mark);
        if self.history.len() > MAX_HISTORY {
            self.history.pop_front();
        }
    }

    fn domain_mut(&mut self, domain: &str) -> &mut DomainState {
        Arc::make_mut(self.domains.entry(domain.to_owned()).or_default())
    }

    /// Makes what nodes looked up until now count no longer. Only keys that ended are still remembered.
    pub fn forget_recent(&mut self) {
        Arc::make_mut(&mut self.recent).forget_until(self.mark.revision);
    }

    fn replace(&mut self, snapshot: &Snapshot, refused: Vec<Refused>) {
        let before = self.rules();
        self.domains.clear();
        self.settings.clear();
        let revision = snapshot.mark.revision;
        for row in &snapshot.rows {
            self.apply_change(revision, row);
        }
        // The snapshot says neither which identities changed nor which transactions led to it.
        self.history.clear();
        self.go_to(snapshot.mark);
        self.forget_recent();
        self.database_rules_revision = snapshot.rules_revision;
        if self.rules() != before || self.rules_revision == Revision::NONE {
            self.rules_revision = revision;
        }
        self.refused = refused;
    }
}
