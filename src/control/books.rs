//! The rule books of a node that is in a cluster: compiled from each newer state that the cluster has committed.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use limiter::Revision;
use limiter::rules::{Problem, RuleBook, has_empty_shares};
use plane::{PlaneState, Refused};
use tokio::sync::watch;

use super::metrics::PlaneMetrics;
use crate::ports::plane::{Consensus, Role};
use crate::ports::{BoxFuture, Fatal, RejectedRules, RuleSource, Service, Shutdown};

/// What `/ready` shows as the place of rules that are not in force.
const PLACE: &str = "rate_limit_rules";
/// The longest text of an error that `/ready` shows, in characters.
const MAX_SHOWN: usize = 500;
/// What `/ready` advises if a limit is below the divisor of `on_store_failure: local`.
const EMPTY_SHARES: &str = "a limit with on_store_failure: local is below store.min_holders: it admits nothing while the \
                            store does not answer";

/// Why the newest rules are not in force.
#[derive(Default)]
struct Rejections {
    /// The first problem of this node with the cluster's rules, and their number.
    of_node: Option<(String, usize)>,
    shown: Option<RejectedRules>,
}

/// After this time without a leader, `/ready` says so.
const MAX_SILENCE: Duration = Duration::from_secs(5);
/// How often retired books are looked at.
const RETIREMENT: Duration = Duration::from_secs(1);

/// The rules of the cluster, as a source of rule books.
pub struct ClusterRules {
    consensus: Arc<dyn Consensus>,
    publish: watch::Sender<Arc<RuleBook>>,
    rejected: Mutex<Rejections>,
    has_empty_shares: AtomicBool,
    /// Books that are not in force any more, and that a core may still have.
    retired: Mutex<Vec<Arc<RuleBook>>>,
    min_holders: u32,
    metrics: PlaneMetrics,
}

impl ClusterRules {
    /// Rules that are empty at [`Revision::NONE`] until the node has a state. `min_holders` is the node's
    /// `store.min_holders`.
    pub fn new(consensus: Arc<dyn Consensus>, min_holders: u32, metrics: PlaneMetrics) -> Self {
        let publish = watch::Sender::new(Arc::new(RuleBook::empty()));
        let (rejected, has_empty_shares) = (Mutex::default(), AtomicBool::new(false));
        let retired = Mutex::default();
        Self { consensus, publish, rejected, has_empty_shares, retired, min_holders, metrics }
    }

    /// Puts the rules of a state in force, if they are newer. A book that compiled late never replaces a newer one.
    pub(super) fn take(&self, state: &PlaneState, compiled: Result<RuleBook, Vec<Problem>>) {
        let valid = compiled.is_ok();
        let of_node = match compiled {
            Ok(book) => {
                let empty = has_empty_shares(book.rules(), self.min_holders);
                let revision = book.revision;
                let newer = self.publish.send_if_modified(|current| {
                    let newer = book.revision > current.revision;
                    if newer {
                        let old = std::mem::replace(current, Arc::new(book));
                        self.retired.lock().unwrap_or_else(PoisonError::into_inner).push(old);
                    }
                    newer
                });
                if newer {
                    self.has_empty_shares.store(empty, Ordering::Relaxed);
                    tracing::info!(%revision, "new rules are in force");
                }
                None
            }
            // The leader has compiled the same rules: it is of another version.
            Err(problems) => {
                let revision = state.rules_revision();
                tracing::error!(%revision, ?problems, "this node cannot read the cluster's rules: older ones stay");
                problems.first().map(|first| (first.to_string(), problems.len()))
            }
        };
        self.metrics.book(valid);
        self.rejections().of_node = of_node;
    }

    /// Drops the retired books that no core has any more. To drop a large book takes as long as many checks, so no core
    /// is the last to have one.
    async fn drop_retired(&self) {
        let unused: Vec<Arc<RuleBook>> = {
            let mut retired = self.retired.lock().unwrap_or_else(PoisonError::into_inner);
            retired.extract_if(.., |book| Arc::strong_count(book) == 1).collect()
        };
        if !unused.is_empty() {
            let _ = tokio::task::spawn_blocking(move || drop(unused)).await;
        }
    }

    fn rejections(&self) -> MutexGuard<'_, Rejections> {
        self.rejected.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Shows what is not in force: rules that this node cannot read, else what the leader refused.
    fn show(&self, refused: &[Refused]) {
        let mut rejections = self.rejections();
        let of_database = || {
            let first = refused.first()?;
            let error = format!("revision {}: {}", first.revision, first.errors.first()?);
            Some((error, refused.iter().map(|refused| refused.errors.len()).sum()))
        };
        let shown = rejections.of_node.clone().or_else(of_database).map(|(error, errors)| {
            let error = error.chars().take(MAX_SHOWN).collect();
            RejectedRules { file: PLACE.to_owned(), error, errors, in_force: self.publish.borrow().revision }
        });
        self.metrics.refused.set(i64::try_from(refused.len()).unwrap_or(i64::MAX));
        self.metrics.set_in_force(shown.is_none());
        rejections.shown = shown;
    }
}

/// Compiles the rules of a state.
pub fn compile(state: &PlaneState) -> Result<RuleBook, Vec<Problem>> {
    RuleBook::compile(Arc::new(state.rules()), state.rules_revision())
}

impl RuleSource for ClusterRules {
    fn follow(&self) -> watch::Receiver<Arc<RuleBook>> {
        self.publish.subscribe()
    }

    fn rejected(&self) -> Option<RejectedRules> {
        self.rejections().shown.clone()
    }

    fn advice(&self) -> Option<&'static str> {
        self.has_empty_shares.load(Ordering::Relaxed).then_some(EMPTY_SHARES)
    }

    fn cluster(&self) -> Option<String> {
        if let Some(failure) = self.consensus.failure() {
            return Some(failure);
        }
        let text = match (*self.consensus.role().borrow(), self.consensus.last_contact()) {
            (Role::Removed, _) => "the cluster has removed this node: it gets no newer rules and no revocations",
            (Role::Joining, _) => "no member has admitted this node yet",
            (_, Some(silence)) if silence <= MAX_SILENCE => "ok",
            _ => "no leader was heard of lately: rules and revocations may be old",
        };
        Some(text.to_owned())
    }
}

impl Service for ClusterRules {
    fn name(&self) -> &'static str {
        "rules of the cluster"
    }

    fn run(&self, mut shutdown: Shutdown) -> BoxFuture<'_, Result<(), Fatal>> {
        Box::pin(async move {
            let mut states = self.consensus.state();
            let mut seen = Revision::NONE;
            loop {
                let state = Arc::clone(&states.borrow_and_update());
                if state.rules_revision() > seen {
                    seen = state.rules_revision();
                    let of_compiler = Arc::clone(&state);
                    // To compile a large book takes long.
                    let compiled = tokio::task::spawn_blocking(move || compile(&of_compiler)).await;
                    self.take(&state, compiled.map_err(|_| Fatal::Panicked(self.name()))?);
                }
                self.show(state.refused());
                drop(state);
                tokio::select! {
                    () = tokio::time::sleep(RETIREMENT) => self.drop_retired().await,
                    () = shutdown.requested() => return Ok(()),
                    changed = states.changed() => if changed.is_err() {
                        shutdown.requested().await;
                        return Ok(());
                    },
                }
            }
        })
    }
}
