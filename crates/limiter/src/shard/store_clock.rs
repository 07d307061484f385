//! An estimate of the store's clock: an offset that is learnt from every reply.
//!
//! `not_after` and calendar bounds use it, and the store checks both. No promise depends on it.

use crate::time::{NodeTime, StoreTime, WallTime};

/// A sample older than this, in microseconds, is replaced by any other.
const STALE_US: u64 = 5_000_000;

#[derive(Clone, Copy, Debug)]
pub struct StoreClock {
    /// The store's clock less the node's, in microseconds.
    offset: i128,
    /// The round trip and the instant of the best sample, once the store has answered.
    sample: Option<(u64, NodeTime)>,
}

impl StoreClock {
    /// The first estimate is the node's wall clock.
    pub fn new(wall: WallTime, now: NodeTime) -> Self {
        Self { offset: i128::from(wall.0) - i128::from(now.0), sample: None }
    }

    /// Learns from a batch that was sent at `sent`, ran at `ran`, and had its reply at `now`. The closest sample wins.
    pub fn learn(&mut self, sent: NodeTime, now: NodeTime, ran: StoreTime) {
        let round_trip = now.since(sent);
        let better = self.sample.is_none_or(|(best, at)| round_trip <= 2 * best + 100 || now.since(at) > STALE_US);
        if better {
            let middle = sent.plus(round_trip / 2);
            self.offset = i128::from(ran.0) - i128::from(middle.0);
            self.sample = Some((round_trip, now));
        }
    }

    /// Lets the next sample count, however long it took.
    pub const fn forget(&mut self) {
        self.sample = None;
    }

    /// True if the store has answered once.
    pub const fn is_known(&self) -> bool {
        self.sample.is_some()
    }

    /// The estimated time of the store when the node's is `node`.
    pub fn at(&self, node: NodeTime) -> StoreTime {
        StoreTime(u64::try_from(i128::from(node.0) + self.offset).unwrap_or(0))
    }
}
