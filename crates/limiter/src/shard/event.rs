//! What happens to a shard, and what must be done then.

use std::sync::Arc;

use crate::counter::{Batch, BatchReply, StoreError};
use crate::decision::Decision;
use crate::escrow::Want;
use crate::gossip::Report;
use crate::ids::{BatchId, LaneId, Ticket};
use crate::key::Regions;
use crate::rules::RuleBook;
use crate::time::NodeTime;

/// Something that happened to a shard, apart from a check.
#[derive(Debug)]
pub enum Event {
    /// Batches whose lane is free leave.
    Flush,
    /// [`Effects::flush_in`] has elapsed, or the flusher that waited for it has ended.
    FlushDelayOver,
    /// [`TICK`](super::TICK) has elapsed.
    Tick,
    /// A batch has a reply, or will get none. A reply to a batch that is not in flight is ignored.
    Reply(Reply),
    /// The deadline of a check has passed. What the store did not decide is decided as `on_store_failure` says.
    Expire(Ticket),
    /// The caller of a check waits no longer, but the store has had less time than it may need. As [`Self::Expire`],
    /// except that a limit with `on_store_failure: allow` denies: callers must not bring about that it allows.
    ExpireEarly(Ticket),
    /// The caller of a check is gone. Its reservations go back, and nothing is decided.
    Cancel(Ticket),
    /// The rules changed. An older revision than the one in force is ignored.
    Rules(Arc<RuleBook>),
    /// This many shards of the region may hold tokens of a key.
    Holders(u32),
    /// What is known of the other regions changed. `None`: there are none.
    Regions(Option<Regions>),
    /// Every token in hand goes back to the store.
    ReleaseTokens,
}

/// The outcome of a batch.
#[derive(Debug)]
pub struct Reply {
    pub lane: LaneId,
    pub batch: BatchId,
    pub result: Result<BatchReply, StoreError>,
}

/// A batch to send to the store.
#[derive(Debug)]
pub struct Outgoing {
    pub lane: LaneId,
    pub batch: Batch,
}

/// What other regions must hear, as the reply to a batch shows.
#[derive(Debug, Default)]
pub struct News {
    /// What the region counted of keys that it shares with other regions, each with the instant from which nothing of
    /// the key counts any more.
    pub reports: Vec<(Report, NodeTime)>,
    /// Rights that the region wants, each with the end of its cell.
    pub wants: Vec<(Want, NodeTime)>,
}

impl News {
    /// True if there is nothing to tell.
    pub const fn is_empty(&self) -> bool {
        self.reports.is_empty() && self.wants.is_empty()
    }
}

/// What must be done after an event. `W` is what the shard keeps for the caller of a check that waits.
#[derive(Debug)]
#[must_use]
pub struct Effects<W> {
    /// Batches to send. The result of each comes back as [`Event::Reply`].
    pub send: Vec<Outgoing>,
    /// Decisions for checks that waited.
    pub decided: Vec<(W, Decision)>,
    /// What other regions must hear.
    pub news: News,
    /// [`Event::Flush`] must follow soon. One may serve several events.
    pub flush: bool,
    /// [`Event::FlushDelayOver`] must follow in this many microseconds.
    pub flush_in: Option<u64>,
}

impl<W> Default for Effects<W> {
    fn default() -> Self {
        Self { send: Vec::new(), decided: Vec::new(), news: News::default(), flush: false, flush_in: None }
    }
}

/// The result of [`Shard::check`](super::Shard::check).
#[derive(Debug)]
pub enum Verdict {
    Decided(Decision),
    /// The check waits for the store. [`Effects::decided`] brings its decision. It takes about this much memory until
    /// then, with what its caller keeps of it.
    Waits {
        ticket: Ticket,
        bytes: usize,
    },
    Overloaded(Overload),
}

/// Why a shard takes no further check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Overload {
    #[error("too many checks wait for the store")]
    TooManyWaiting,
    #[error("no more keys can be held")]
    TooManyKeys,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::{Grid, SeenCells};

    #[test]
    fn news_are_reports_and_wants() {
        let (key, grid) = (b"k".as_slice(), Grid::Fixed { width_ms: 1000 });
        let report = Report { key: key.into(), grid, cells: SeenCells::Empty };
        let (limit, cell_ms, hits, denied, received, epoch_ms) = (10, 0, 5, false, 0, 0);
        let want = Want { key: key.into(), grid, limit, cell_ms, hits, denied, received, epoch_ms };
        assert!(News::default().is_empty());
        assert!(!News { reports: vec![(report, NodeTime(1))], ..News::default() }.is_empty());
        assert!(!News { wants: vec![(want, NodeTime(1))], ..News::default() }.is_empty());
    }
}
