//! What a node knows of its store's clock: an offset learnt from every answer.
//!
//! It serves `not_after` and calendars, which the store checks; no promise rests on it.

use crate::time::{NodeTime, StoreTime};

/// A sample older than this, in microseconds, is replaced by any other.
const STALE_US: u64 = 5_000_000;

#[derive(Clone, Copy, Debug)]
pub struct StoreClock {
    /// Store's clock less the node's, in microseconds.
    offset: i128,
    /// Round trip and instant of the sample, once the store has answered.
    sample: Option<(u64, NodeTime)>,
}

impl StoreClock {
    /// Begins with the node's own wall clock as the estimate.
    pub fn new(wall: StoreTime, now: NodeTime) -> Self {
        Self { offset: i128::from(wall.0) - i128::from(now.0), sample: None }
    }

    /// Learns from a batch sent at `sent`, answered by `now`, that ran at `ran`: the closest sample wins.
    pub fn learn(&mut self, sent: NodeTime, now: NodeTime, ran: StoreTime) {
        let round_trip = now.since(sent);
        let better = self.sample.is_none_or(|(best, at)| round_trip <= 2 * best + 100 || now.since(at) > STALE_US);
        if better {
            let middle = sent.plus(round_trip / 2);
            self.offset = i128::from(ran.0) - i128::from(middle.0);
            self.sample = Some((round_trip, now));
        }
    }

    /// The next sample counts, however long it took.
    pub const fn forget(&mut self) {
        self.sample = None;
    }

    /// Whether the store has answered.
    pub const fn is_known(&self) -> bool {
        self.sample.is_some()
    }

    pub fn at(&self, node: NodeTime) -> StoreTime {
        StoreTime(u64::try_from(i128::from(node.0) + self.offset).unwrap_or(0))
    }
}
