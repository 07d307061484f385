//! The seams between the core and the world. Adapters implement them; the core and the actors know only these.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use limiter::counter::{Batch, BatchReply, StoreError};
use limiter::rules::RuleBook;
use limiter::{Check, Decision, LaneId, NodeTime, Overload, WallTime};

/// A boxed future that an adapter returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The clocks of this node.
pub trait Clock: Send + Sync + 'static {
    /// Monotonic, in microseconds since an arbitrary start.
    fn now(&self) -> NodeTime;
    /// The wall clock, in microseconds since the Unix epoch; only a first estimate of the store's.
    fn wall(&self) -> WallTime;
}

/// Where a region's counters live. It runs batches as [`limiter::counter::apply`] says.
pub trait CounterStore: Send + Sync + 'static {
    /// Independent parts of the store, each with its own clock and its own batch in flight.
    fn lanes(&self) -> u16;
    /// The lane that owns `key`.
    fn lane(&self, key: &[u8]) -> LaneId;
    /// Runs a batch. Answers within its own deadline; an error says whether it may have been applied.
    fn run(&self, lane: LaneId, batch: Batch) -> BoxFuture<'_, Result<BatchReply, StoreError>>;
    /// Looks after what it needs, such as connections, as long as it is waited for: the core that uses it does.
    fn keep(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// The region that a node counts with: its counters, and who else is there.
pub trait Region: Send + Sync + 'static {
    /// A door to the region's counters, for one core.
    fn store(&self) -> Arc<dyn CounterStore>;
    /// How many may hold tokens of a key: the cores of all nodes.
    fn holders(&self) -> watch::Receiver<u32>;
    fn state(&self) -> RegionState;
    /// Keeps the node's place in its region as long as it is waited for. Ends only where the node must not serve.
    fn keep(&self) -> BoxFuture<'_, Unfit>;
    /// Says that the node leaves.
    fn leave(&self) -> BoxFuture<'_, ()>;
}

/// The state of a region's store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegionState {
    /// True if the store was reached at least once.
    pub reached: bool,
    pub store: StoreHealth,
    /// The settings of the store that weaken the promises, and how to change them.
    pub advice: Vec<&'static str>,
}

/// The health of a region's store. Its text is `ok` or the reason.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum StoreHealth {
    #[default]
    Ok,
    /// The reason, for people.
    Failing(String),
}

impl fmt::Display for StoreHealth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ok => f.write_str("ok"),
            Self::Failing(reason) => f.write_str(reason),
        }
    }
}

/// Why a node must not serve: it would count apart from its region.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(pub String);

/// Where rules come from.
pub trait RuleSource: Send + Sync + 'static {
    /// The newest book, and every newer one after it. Revisions only grow.
    fn follow(&self) -> watch::Receiver<Arc<RuleBook>>;
}

/// Decides checks.
pub trait Limiter: Send + Sync + 'static {
    /// The decision on a check that arrived at `now` of this core's [`Clock`], or why there is none. `within` is how long the
    /// caller waits, when that is less than the store's deadline: what is undecided then is decided as each limit's
    /// `on_store_failure` says.
    fn check(&self, check: &Check<'_>, now: NodeTime, within: Option<Duration>) -> Answer;
    /// The same for many checks at once, each for itself, in order.
    fn check_all(&self, checks: &[Check<'_>], now: NodeTime, within: Option<Duration>) -> Vec<Answer>;
}

/// A decision made at once, or one that waits for the store.
pub enum Answer {
    Now(Result<Decision, Unavailable>),
    Later(BoxFuture<'static, Result<Decision, Unavailable>>),
}

impl Answer {
    /// The decision, waited for where it must be.
    pub async fn get(self) -> Result<Decision, Unavailable> {
        match self {
            Self::Now(decision) => decision,
            Self::Later(decision) => decision.await,
        }
    }
}

/// Why a check got no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("the node is starting")]
    Starting,
    #[error("overloaded: {0}")]
    Overloaded(#[from] Overload),
    #[error("the shard was restarted while the check was under way")]
    Restarted,
}
