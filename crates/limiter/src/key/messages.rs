//! What a shard and its key actors tell each other.

use std::sync::Arc;

use crate::counter::Ticks;
use crate::rules::Effective;
use crate::time::{NodeTime, StoreTime};

/// Where granted hits were charged; what a refund must name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// Nothing was charged anywhere.
    Free,
    Window(Lot),
    Bucket {
        incarnation: u64,
        step: Ticks,
        at: StoreTime,
    },
    /// This holder admitted it on its own account, and owes it to the store.
    Local {
        cell_ms: u64,
    },
}

/// Tokens of one lot were charged to one cell in one incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lot {
    pub cell_ms: u64,
    pub source: u64,
}

/// A check's part that waits at a key.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub ticket: u64,
    /// The key's own slot.
    pub slot: u32,
    /// Place in the check.
    pub part: usize,
    pub hits: u64,
    /// The limit under which it was asked: an edit does not change a check under way.
    pub effective: Arc<Effective>,
    /// It was sent before, and the store did nothing.
    pub resent: bool,
}

/// What became of a waiting part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Granted(Receipt),
    /// Node time at which it would fit; `None` if never.
    Refused(Option<NodeTime>),
    /// The store did not decide.
    Failed,
}

/// What a key needs to know of its surroundings.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    pub now: NodeTime,
    /// This node's estimate of the store's clock.
    pub store_now: StoreTime,
    /// The store has told it: until then it is the node's wall clock, which may be far off.
    pub store_known: bool,
    /// Longest that tokens are held, in microseconds.
    pub lease_us: u64,
    /// How many may hold tokens of a key.
    pub holders: u32,
    /// What `on_store_failure: local` divides by.
    pub divisor: u32,
}

/// When a batch was sent, and the store's clock when it ran.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    pub sent: NodeTime,
    pub store_now: StoreTime,
}

/// Whether a batch without an answer may have been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    No,
    Unknown,
}
