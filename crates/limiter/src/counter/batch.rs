//! What travels between a node and its counter store. Every store uses these types.
//!
//! The store charges a batch item by item. An item is one key's returns, asks and prefetch. A store that replies has
//! charged the items that it granted. [`StoreError::NotApplied`] says that it has not. Any other outcome is unknown and
//! counts as charged.

use serde::{Deserialize, Serialize};

use super::debts::{Debt, Report};
use super::escrow::Escrow;
use super::grid::Grid;
use super::lane_epoch::Spending;
use super::rate::{Rate, Ticks};
use super::seen_cells::SeenCells;
use super::share::Share;
use super::transfer::{Give, Given, Take};
use crate::ids::{BatchId, HolderId, Incarnation};
use crate::revision::Revision;
use crate::time::StoreTime;

/// One call to one primary of the store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Batch {
    /// If the batch runs later than this, it does nothing. `None` until the store's clock is known.
    pub not_after: Option<StoreTime>,
    /// The shard that sends the batch.
    pub holder: HolderId,
    pub id: BatchId,
    pub items: Vec<Item>,
}

/// One key's part of a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Item {
    /// The name of the counter.
    pub key: Box<[u8]>,
    /// In order. Each is granted whole or not at all. An ask for 0 hits peeks: would one hit pass?
    pub asks: Vec<Ask>,
    /// Hits to take back before the asks, whoever was granted them: the newest ones, and never more than count now.
    pub refund: u64,
    pub counter: Counter,
}

/// `count` asks in a row, of `hits` tokens each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ask {
    pub hits: u64,
    pub count: u32,
    /// True if an ask that does not fit is charged all the same. It is still not granted.
    pub overdraft: bool,
}

/// How the store counts, and what the node knows of the counter.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Counter {
    Window {
        grid: Grid,
        limit: u64,
        /// What the node last saw of the newest cells.
        seen: SeenCells,
        returns: Vec<WindowReturn>,
        debts: Debts,
        lease: Option<Prefetch>,
        /// While another region does not hear this one, if the limit says `on_partition: share`.
        share: Option<Share>,
        /// If the limit says `strategy: escrow`.
        escrow: Option<Escrow>,
    },
    /// The counts of another region. The item asks for nothing. It never advances the time of the counter, and it
    /// creates no cell that is over.
    Import { grid: Grid, cells: SeenCells },
    /// Another region asks for rights of a limit under `escrow`.
    Give { grid: Grid, escrow: Escrow, give: Give },
    /// Another region has answered [`Counter::Give`].
    Take { grid: Grid, take: Take },
    Bucket {
        rate: Rate,
        revision: Revision,
        seen: Option<BucketSeen>,
        /// Hits that the node admitted during an outage. They empty the bucket and never drive it below empty.
        owed: u64,
        returns: Vec<BucketReturn>,
    },
}

impl Counter {
    /// True if the item needs the record of its lane.
    pub const fn uses_lane(&self) -> bool {
        self.has_rights() || matches!(self, Self::Import { .. })
    }

    /// True if the item spends or moves rights.
    pub const fn has_rights(&self) -> bool {
        matches!(self, Self::Window { escrow: Some(_), .. } | Self::Give { .. } | Self::Take { .. })
    }
}

/// The debts that an item carries.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Debts {
    /// The incarnation in which the node last saw `seen`.
    pub seen_in: Incarnation,
    /// Debts of any holder that the node last saw as charged and not confirmed.
    pub seen: Vec<Debt>,
    /// Debts of this node.
    pub reports: Vec<Report>,
}

/// Tokens wanted in advance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefetch {
    pub want: u32,
    /// Shards that may hold tokens of this key. A lease is at most what remains ÷ (2 × holders).
    pub holders: u32,
    /// No lease is granted if the cell ends within this many microseconds.
    pub min_left: u64,
}

/// Tokens of a window that go back unspent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowReturn {
    pub cell_ms: u64,
    /// The incarnation that they were charged in.
    pub incarnation: Incarnation,
    pub tokens: u64,
}

/// Hits of a bucket that were charged and not used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketReturn {
    pub incarnation: Incarnation,
    /// The step that they were charged under.
    pub step: Ticks,
    pub hits: u64,
    pub charged_at: StoreTime,
}

/// What a node last saw of a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketSeen {
    pub incarnation: Incarnation,
    pub tat: Ticks,
}

/// The reply to a batch.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BatchReply {
    /// The store's clock when the batch ran.
    pub now: StoreTime,
    pub outcome: BatchOutcome,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum BatchOutcome {
    /// One reply for each item, in order.
    Ran(Vec<ItemReply>),
    /// It was past `not_after`: the store did nothing.
    Late,
}

/// The reply to an item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ItemReply {
    Done(Grant),
    /// The counts of another region are merged. A store whose lane has another epoch than before
    /// ([`LaneEpoch::since_ms`](super::LaneEpoch::since_ms)) may have forgotten what it merged.
    Imported {
        epoch_ms: u64,
    },
    /// The rights that another region gave are merged; `gained` of them are new. `epoch_ms` is as in
    /// [`ItemReply::Imported`].
    Taken {
        epoch_ms: u64,
        gained: u64,
    },
    /// The answer to another region that asks for rights. That region must not hear it before a replica of the store
    /// has it.
    Given(Given),
    /// The instant of the counter is outside the calendar bounds of the item: the store did nothing. `newest_ms` is the
    /// beginning of the record's newest cell, in milliseconds since the epoch, or 0. Under `escrow` it may be the
    /// newest time of the lane. It may be in the future of a store whose clock was set back.
    OutOfBounds {
        newest_ms: u64,
    },
    /// The store could not serve this key (a wrong type, a script error). Nothing of the item counts as granted.
    Failed,
}

/// What was granted, and what is known of the counter afterwards.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// One for each run of asks, in order.
    pub granted: Vec<Granted>,
    /// Tokens granted in advance.
    pub lease: u32,
    /// Hits that would still be granted now.
    pub available: u64,
    /// When the whole limit is free again if nothing more is asked.
    pub reset_at: StoreTime,
    /// Every debt that the item reported is charged.
    pub reported: bool,
    /// Under `escrow`: whether the region may spend its rights. `None` for other limits.
    pub spending: Option<Spending>,
    pub seen: Seen,
}

/// What was granted of a run of asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// This many of the run were granted, the first ones.
    pub count: u32,
    /// When one more would fit if nothing else is asked. `None` if none was denied, or if it never will.
    pub fits_at: Option<StoreTime>,
}

/// What the node remembers of the counter and sends with its next item.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Seen {
    Window {
        incarnation: Incarnation,
        /// The cell that was charged.
        cell_ms: u64,
        cell_end_ms: u64,
        /// The newest two that count.
        cells: SeenCells,
        /// Debts that were charged and not confirmed.
        debts: Vec<Debt>,
    },
    /// `at` is the instant of the charge.
    Bucket { incarnation: Incarnation, tat: Ticks, at: StoreTime },
}

/// Why a batch has no reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("the store was not reached, nothing was charged")]
    NotApplied,
    #[error("the store did not answer in time, the batch may have been charged")]
    Unknown,
}
