//! The seams between the core and the world. Adapters implement these traits, and the core and the actors know only
//! them.

#[cfg(feature = "cluster")]
pub mod admin;
pub mod identity;
pub mod plane;
mod service;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use limiter::counter::{Batch, BatchReply, StoreError};
use limiter::rules::{IdentityTerms, RuleBook};
use limiter::{Check, Decision, IdentityProblem, LaneId, News, NodeTime, Overload, Regions, Revision, WallTime};
use serde::{Deserialize, Serialize, Serializer};
use tokio::sync::watch;

pub use service::{Fatal, Service, Shutdown};

/// A boxed future that an adapter returns.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The clocks of this node.
pub trait Clock: Send + Sync + 'static {
    /// The monotonic clock, in microseconds since an arbitrary start.
    fn now(&self) -> NodeTime;
    /// The wall clock. It is only a first estimate of the store's clock.
    fn wall(&self) -> WallTime;
}

/// The counters of a region, for one core. A store does with a batch what [`limiter::counter::apply`] does.
pub trait CounterStore: Send + Sync + 'static {
    /// The number of lanes. Each has its own clock and at most one batch in flight.
    fn lanes(&self) -> u16;
    /// The lane of the counter `key`.
    fn lane(&self, key: &[u8]) -> LaneId;
    /// Runs a batch, within the deadline of the store. An error says whether the batch may have been applied.
    fn run(&self, lane: LaneId, batch: Batch) -> BoxFuture<'_, Result<BatchReply, StoreError>>;
    /// Runs a batch, and waits until a replica has what it wrote, and all that was written before.
    fn run_durably(&self, lane: LaneId, batch: Batch) -> BoxFuture<'_, Result<(BatchReply, Replicated), StoreError>> {
        let run = self.run(lane, batch);
        Box::pin(async { run.await.map(|reply| (reply, Replicated::NoReplica)) })
    }
    /// Keeps connections and the like, while it is polled. The core that uses the store polls it.
    fn keep(&self) -> BoxFuture<'_, ()> {
        Box::pin(std::future::pending())
    }
}

/// Whether a replica has what a primary wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replicated {
    Yes,
    /// None has confirmed it in time.
    NotYet,
    /// The primary has no replica.
    NoReplica,
}

/// The region that a node counts with. As a service, it keeps the node's place among the members of the region.
pub trait Region: Service {
    /// The counters of the region, for one core.
    fn store(&self) -> Arc<dyn CounterStore>;
    /// The number of shards that may hold tokens of a key: the cores of all nodes.
    fn holders(&self) -> watch::Receiver<u32>;
    fn state(&self) -> RegionState;
}

/// The bearer tokens of the clients that may ask for checks.
pub trait ClientTokens: Send + Sync + 'static {
    fn is_valid(&self, token: &str) -> bool;
}

/// The other regions, which a node tells what its region counted.
pub trait Gossip: Send + Sync + 'static {
    /// Takes what other regions must hear. It does not wait.
    fn tell(&self, news: News);
    /// What the cores must know of the other regions; `None` if there are none.
    fn regions(&self) -> watch::Receiver<Option<Regions>>;
    /// What weakens the promises of limits across regions.
    fn advice(&self) -> Vec<&'static str>;
    /// What this node knows of each other region.
    fn status(&self) -> Vec<RegionStatus>;
}

/// What a node knows of another region.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionStatus {
    pub region: String,
    pub weight: u64,
    /// The region does not hear this node.
    pub partitioned: bool,
    /// Milliseconds since the last message was sent that the region has acknowledged; `None` if there is none.
    pub heard_age_ms: Option<u64>,
    /// How long that acknowledgement took, in milliseconds: both ways, and the writing in between.
    pub round_trip_ms: Option<u64>,
    /// Keys whose newest count the region is not told yet.
    pub behind_keys: usize,
    /// Rights that the region has given this node since it started, under `strategy: escrow`.
    pub rights_taken: u64,
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

/// The health of a region's store. Its text, in JSON as well, is `ok` or the reason.
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

impl Serialize for StoreHealth {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A source of rules. Their revisions are one sequence: see [`Revision`].
pub trait RuleSource: Send + Sync + 'static {
    /// The newest rules, and every newer ones.
    fn follow(&self) -> watch::Receiver<Arc<RuleBook>>;
    /// Why the newest rules are not in force; `None` if they are.
    fn rejected(&self) -> Option<RejectedRules> {
        None
    }
    /// What weakens the promises of the rules in force, for the person who runs the node.
    fn advice(&self) -> Option<&'static str> {
        None
    }
    /// `ok`, or why the node no longer follows the cluster that the rules come from; `None` if they come from no
    /// cluster.
    fn cluster(&self) -> Option<String> {
        None
    }
}

/// Rules that were rejected. Older rules stay in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct RejectedRules {
    pub file: String,
    /// The first error, with its place. A long text is cut.
    pub error: String,
    /// The number of errors.
    pub errors: usize,
    /// The revision of the rules that stay in force.
    pub in_force: Revision,
}

/// The part of the store's deadline that each check waits for the store, if its caller waits for less.
const SHORTEST_WAIT: u32 = 10;

/// How long a check waits for the store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wait {
    /// `None`: for the store's deadline.
    pub time: Option<Duration>,
    /// The caller waits for less than the store's deadline. It may be an end user who chose that.
    pub is_hasty: bool,
}

impl Wait {
    /// How long a check waits whose caller waits for `timeout`: for a tenth of the store's deadline at least, and for
    /// the deadline at most.
    pub fn of_caller(timeout: Option<Duration>, deadline: Duration) -> Self {
        let shortest = deadline / SHORTEST_WAIT;
        let time = timeout.map_or(deadline, |timeout| timeout.clamp(shortest, deadline));
        Self { time: Some(time), is_hasty: timeout.is_some_and(|timeout| timeout < deadline) }
    }
}

/// Decides checks.
pub trait Limiter: Send + Sync + 'static {
    /// Decides a check that arrived at `now` of this core's [`Clock`]. `wait` is how long it waits for the store. What
    /// is undecided then is decided as each limit's `on_store_failure` says, except that no limit allows for that
    /// reason if the caller is hasty.
    fn check(&self, check: &Check<'_>, now: NodeTime, wait: Wait) -> Answer;
    /// The deadline of the store. No check waits longer, for the store and for its identity together.
    fn deadline(&self) -> Duration;
    /// Where the identity of the checks of a domain comes from.
    fn identity(&self, _domain: &str) -> IdentityTerms {
        IdentityTerms::default()
    }
    /// The decision of a check that is denied because its caller is not known.
    fn denied(&self, _domain: &str, problem: IdentityProblem) -> Decision {
        Decision::unidentified(None, Revision::NONE, problem)
    }
    /// Decides many checks at once, each for itself, in order. It stops when they have been the
    /// [work of a batch](limiter::rules::MAX_BATCH_WORK), so that there may be fewer answers than checks. There is one
    /// at least.
    fn check_all(&self, checks: &[Check<'_>], now: NodeTime, wait: Wait) -> Vec<Answer>;
}

/// The answer to a check: a decision made at once, or one that waits for the store.
pub enum Answer {
    Now(Result<Decision, Unavailable>),
    Later {
        /// The steps of the check: see [`MAX_WORK`](limiter::rules::MAX_WORK).
        work: usize,
        /// About the memory that the check takes until its decision, in bytes.
        bytes: usize,
        decision: BoxFuture<'static, Result<Decision, Unavailable>>,
    },
}

impl Answer {
    /// Returns the decision, after waiting if it must.
    pub async fn get(self) -> Result<Decision, Unavailable> {
        match self {
            Self::Now(decision) => decision,
            Self::Later { decision, .. } => decision.await,
        }
    }
}

/// Why a node makes no decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unavailable {
    #[error("the node is starting")]
    Starting,
    #[error("overloaded: {0}")]
    Overloaded(#[from] Overload),
    #[error("the shard was restarted while the check waited")]
    Restarted,
    /// The request was not read.
    #[error("overloaded: too many bytes of request bodies are arriving")]
    Reading,
}

/// What the front ends ask of the node that they belong to.
pub trait NodeStatus: Send + Sync + 'static {
    fn readiness(&self) -> Readiness;
    /// Every metric in the text format of Prometheus. It is rendered away from the cores that decide.
    fn metrics(&self) -> BoxFuture<'_, Result<String, String>>;
}

/// The answer to a readiness probe.
#[derive(Clone, Debug, Serialize)]
pub struct Readiness {
    pub ready: bool,
    /// The revision of the rules in force; 0 before there are any.
    pub revision: Revision,
    /// SHA-256 of the rules in force. Nodes with equal rules have equal hashes. `None` while newer rules get in force.
    pub rules_hash: Option<String>,
    /// The rules that were read last, if they were rejected.
    pub rejected_rules: Option<RejectedRules>,
    pub store: StoreHealth,
    /// `ok`, or why the node no longer follows its cluster; `None` without a cluster.
    pub cluster: Option<String>,
    /// The settings of the store that weaken the promises, and how to change them.
    pub advice: Vec<&'static str>,
    /// True if the node is about to stop.
    pub draining: bool,
}
