//! The leader's work: it reads the committed transactions of the database in order, and proposes them to the cluster.

use std::sync::Arc;
use std::time::Duration;

use plane::{Command, Mark, PlaneState, Refused, Transaction, json_bytes};

use super::metrics::PlaneMetrics;
use super::refusals;
use crate::ports::plane::{ChangeSource, Changes, Consensus, ConsensusError, DatabaseError, Role};
use crate::ports::{BoxFuture, Fatal, Service, Shutdown};

/// The most transactions in one proposal.
const MAX_TRANSACTIONS: usize = 100;
/// The size up to which transactions are put together in one proposal, in bytes of JSON.
const MAX_PROPOSAL: usize = 8 * 1024 * 1024;
/// How long the leader waits after an error, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// The most refused transactions that one step logs, and the most rows of each.
const MAX_LOGGED: usize = 20;

/// How often the leader maintains the tables, and how soon it tries again.
const MAINTENANCE: Duration = Duration::from_secs(3600);
const MAINTENANCE_RETRY: Duration = Duration::from_secs(60);

/// Reads the database while this node leads.
pub struct FollowDatabase {
    consensus: Arc<dyn Consensus>,
    source: Arc<dyn ChangeSource>,
    metrics: PlaneMetrics,
}

/// What one step of the leader did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// It proposed something.
    Proposed,
    /// The cluster has everything.
    UpToDate,
}

/// Why a step failed.
#[derive(Debug, thiserror::Error)]
enum StepError {
    #[error(transparent)]
    Database(#[from] DatabaseError),
    #[error(transparent)]
    Consensus(#[from] ConsensusError),
    #[error("the cluster is elsewhere: it is read again")]
    NotApplied,
    #[error("a check of rules panicked")]
    Panicked,
}

impl FollowDatabase {
    pub fn new(consensus: Arc<dyn Consensus>, source: Arc<dyn ChangeSource>, metrics: PlaneMetrics) -> Self {
        Self { consensus, source, metrics }
    }

    /// Does what only the leader does, until it is dropped.
    async fn lead(&self) {
        tokio::join!(self.carry(), self.maintain());
    }

    /// Lets the database prepare for the days to come and remove what is old.
    async fn maintain(&self) {
        loop {
            let wait = match self.source.maintain().await {
                Ok(()) => MAINTENANCE,
                Err(error) => {
                    tracing::debug!(%error, "the tables are not maintained now");
                    MAINTENANCE_RETRY
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    /// Reads and proposes.
    async fn carry(&self) {
        let mut retry = RETRY.0;
        let mut warned = String::new();
        let mut reported: Option<Vec<Refused>> = None;
        loop {
            let state = Arc::clone(&self.consensus.state().borrow());
            let step = self.step(&state).await;
            if reported.as_deref() != Some(state.refused()) {
                // The table is for people. What cannot be written now is written after the next step.
                if self.source.report_refused(state.refused()).await.is_ok() {
                    reported = Some(state.refused().to_vec());
                }
            }
            match step {
                Ok(Step::Proposed) => {
                    retry = RETRY.0;
                    warned.clear();
                }
                Ok(Step::UpToDate) => {
                    retry = RETRY.0;
                    warned.clear();
                    self.source.wait_for_change().await;
                }
                Err(error) => {
                    let text = error.to_string();
                    if warned != text {
                        warned = text;
                        tracing::warn!(%error, "the leader cannot carry changes from PostgreSQL to the cluster");
                    }
                    self.metrics.follow_errors.inc();
                    tokio::time::sleep(retry).await;
                    retry = (2 * retry).min(RETRY.1);
                }
            }
        }
    }

    async fn step(&self, state: &Arc<PlaneState>) -> Result<Step, StepError> {
        if state.mark() == Mark::default() {
            return self.replace(state).await;
        }
        match self.source.changes_after(state.mark(), MAX_TRANSACTIONS).await? {
            Changes::Next(transactions) if transactions.is_empty() => Ok(Step::UpToDate),
            Changes::Next(transactions) => {
                let transactions = within_bytes(transactions);
                let everything = match state.refused().is_empty() {
                    true => None,
                    false => Some(self.source.read_all().await?),
                };
                let of_task = Arc::clone(state);
                let command = move || refusals::command(&of_task, transactions, everything.as_ref());
                // To compile a large book takes long.
                let command = tokio::task::spawn_blocking(command).await.map_err(|_| StepError::Panicked)?;
                self.propose(state, command).await
            }
            Changes::Pruned => self.replace(state).await,
            Changes::Diverged => {
                let mark = state.mark();
                tracing::error!(revision = %mark.revision, "PostgreSQL lacks revisions that the cluster has applied, or \
                    the cluster was restored from a backup: the leader writes them back");
                self.source.restore_missing(Arc::clone(state)).await?;
                self.metrics.reconciled.inc();
                self.replace(state).await
            }
        }
    }

    /// Proposes all that the database holds.
    async fn replace(&self, state: &Arc<PlaneState>) -> Result<Step, StepError> {
        let snapshot = self.source.read_all().await?;
        let of_task = Arc::clone(state);
        let command = move || {
            let (snapshot, refused) = refusals::readable(&of_task, snapshot);
            Command::Replace { after: of_task.mark(), snapshot, refused }
        };
        let command = tokio::task::spawn_blocking(command).await.map_err(|_| StepError::Panicked)?;
        self.propose(state, command).await
    }

    async fn propose(&self, state: &PlaneState, command: Command) -> Result<Step, StepError> {
        let refused = match &command {
            Command::Apply { refused, .. } | Command::Replace { refused, .. } => new_refused(state, refused),
            _ => Vec::new(),
        };
        match self.consensus.propose(command).await?.applied {
            true => {
                for Refused { revision, rows, errors } in refused {
                    let (rows, error) = (rows.join(", "), errors.into_iter().next().unwrap_or_default());
                    tracing::warn!(%revision, rows, error, "a transaction is refused: its rules are not in force");
                }
                Ok(Step::Proposed)
            }
            false => Err(StepError::NotApplied),
        }
    }
}

/// The refused transactions that the cluster does not know yet, as far as a log should show them.
fn new_refused(state: &PlaneState, refused: &[Refused]) -> Vec<Refused> {
    let known = |refused: &Refused| state.refused().iter().any(|old| old.revision == refused.revision);
    let new = refused.iter().filter(|refused| !known(refused)).take(MAX_LOGGED);
    new.map(|refused| Refused {
        rows: refused.rows.iter().take(MAX_LOGGED).cloned().collect(),
        errors: refused.errors.iter().take(1).cloned().collect(),
        ..*refused
    })
    .collect()
}

/// The first transactions that together are no larger than a proposal should be; at least one.
fn within_bytes(mut transactions: Vec<Transaction>) -> Vec<Transaction> {
    let mut bytes = 0;
    let fit = transactions.iter().take_while(|transaction| {
        bytes += json_bytes(transaction);
        bytes <= MAX_PROPOSAL
    });
    let fit = fit.count().max(1);
    transactions.truncate(fit);
    transactions
}

impl Service for FollowDatabase {
    fn name(&self) -> &'static str {
        "reader of the database"
    }

    fn run(&self, mut shutdown: Shutdown) -> BoxFuture<'_, Result<(), Fatal>> {
        Box::pin(async move {
            let mut roles = self.consensus.role();
            loop {
                let role = *roles.borrow_and_update();
                let lead = async {
                    match role {
                        Role::Leader { .. } => self.lead().await,
                        _ => std::future::pending().await,
                    }
                };
                tokio::select! {
                    () = shutdown.requested() => return Ok(()),
                    changed = roles.changed() => if changed.is_err() {
                        shutdown.requested().await;
                        return Ok(());
                    },
                    () = lead => {}
                }
            }
        })
    }
}
