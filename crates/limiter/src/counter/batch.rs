//! What travels between a node and its counter store: the wire types of every store.
//!
//! A batch is charged item by item; an item is one key's returns, whole asks and prefetch. A store that answers has
//! charged; one that says [`StoreError::NotApplied`] has not; all else is unknown, and counts as charged.

use serde::{Deserialize, Serialize};

use super::debts::{Debt, Report};
use super::token_bucket::{Rate, Ticks};
use super::window::{Cell, Grid};
use crate::revision::Revision;
use crate::time::StoreTime;

/// One call to one primary of the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// Run later than this, the batch does nothing. `None` until the store's clock is known.
    pub not_after: Option<StoreTime>,
    /// Who sends it, below 2^48: random, a name that no other holder has or had.
    pub holder: u64,
    /// The holder's batches are numbered as they are sent, below 2^48.
    pub number: u64,
    pub items: Vec<Item>,
}

/// One key's part of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    pub key: Box<[u8]>,
    /// In order; each granted whole or not at all. `hits` 0 peeks: would one hit pass?
    pub asks: Vec<Ask>,
    pub counter: Counter,
}

/// `count` asks in a row, of `hits` tokens each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub hits: u64,
    pub count: u32,
}

/// What is counted and how, with what the node knows of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Counter {
    Window {
        grid: Grid,
        limit: u64,
        /// What the node last saw of the newest cells.
        seen: Vec<Cell>,
        returns: Vec<WindowReturn>,
        debts: Debts,
        lease: Option<Prefetch>,
    },
    Bucket {
        rate: Rate,
        revision: Revision,
        seen: Option<BucketSeen>,
        /// Hits that were admitted while the store did not answer: the bucket is emptied by them, never driven below.
        owed: u64,
        returns: Vec<BucketReturn>,
    },
}

/// What an item says of debts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debts {
    /// The incarnation that the node last saw them in.
    pub seen_in: u64,
    /// Which the node last saw charged and not confirmed, whoever owed them.
    pub seen: Vec<Debt>,
    /// Its own.
    pub reports: Vec<Report>,
}

/// Tokens wanted in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefetch {
    pub want: u32,
    /// How many may hold tokens of this key; a lease is at most what remains ÷ (2 × holders).
    pub holders: u32,
    /// No lease when the cell ends within this many microseconds.
    pub min_left: u64,
}

/// Tokens of a window that go back unspent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowReturn {
    pub cell_ms: u64,
    /// The incarnation that they were charged in.
    pub source: u64,
    pub tokens: u64,
}

/// Hits of a bucket that were charged and not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketReturn {
    pub incarnation: u64,
    /// The step they were charged under.
    pub step: Ticks,
    pub hits: u64,
    pub charged_at: StoreTime,
}

/// What a node last saw of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketSeen {
    pub incarnation: u64,
    pub tat: Ticks,
}

/// What the store answers to a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchAnswer {
    /// The store's clock when the batch ran.
    pub now: StoreTime,
    pub outcome: BatchOutcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum BatchOutcome {
    /// One answer an item, in order.
    Ran(Vec<ItemAnswer>),
    /// It was past `not_after`: nothing was done.
    Late,
}

/// What the store answers to an item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ItemAnswer {
    Done(Grant),
    /// The calendar bounds of the item do not hold the store's instant: nothing was done.
    OutOfBounds,
    /// This key could not be served (a wrong type, a script error): nothing of it counts as granted.
    Failed,
}

/// What was charged, and what is known of the key afterwards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// One for each run of asks, in order.
    pub granted: Vec<Granted>,
    /// Tokens granted in advance.
    pub lease: u32,
    /// Hits that would still be granted at once.
    pub available: u64,
    /// When the whole limit is free again if nothing more is asked.
    pub reset_at: StoreTime,
    /// Every debt that the item reported is charged.
    pub reported: bool,
    pub seen: Seen,
}

/// What became of a run of asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// The first so many were granted.
    pub count: u32,
    /// When one more would fit if nothing else is asked; `None` when none was refused, or it never will.
    pub fits_at: Option<StoreTime>,
}

/// What the node remembers of the key, and sends with its next item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Seen {
    Window {
        incarnation: u64,
        /// The cell that was charged.
        cell_ms: u64,
        cell_end_ms: u64,
        /// The newest two that count.
        cells: Vec<Cell>,
        /// Debts that were charged and not confirmed.
        debts: Vec<Debt>,
    },
    /// `at` is the instant that was charged at.
    Bucket { incarnation: u64, tat: Ticks, at: StoreTime },
}

/// Why a batch has no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("the store was not reached, nothing was charged")]
    NotApplied,
    #[error("the store did not answer in time, the batch may have been charged")]
    Unknown,
}
