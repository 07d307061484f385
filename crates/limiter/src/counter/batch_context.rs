//! What the store knows when a batch runs, and the incarnation that it charges to.

use super::cell::FIRST_NOTE;
use super::lane_epoch::LaneEpoch;
use crate::ids::{BatchId, HolderId, Incarnation};
use crate::time::StoreTime;

/// What the store knows when an item runs.
#[derive(Clone, Copy, Debug)]
pub struct BatchContext {
    pub now: StoreTime,
    /// The first 24 bits of the server's replication id. They change when another server becomes the primary: the last
    /// charges of the old one may be lost.
    pub replication: u64,
    pub holder: HolderId,
    pub batch: BatchId,
    /// The last instant at which the batch may run.
    pub not_after: Option<StoreTime>,
    /// The record of the batch's lane. Imports and items under `escrow` need it; for other batches it is empty.
    pub epoch: LaneEpoch,
}

/// The low bits of an incarnation are the mark of the replication id under which it began.
pub const REPLICATION_MARKS: u64 = 1 << 24;

impl BatchContext {
    /// The mark of the replication id in incarnations.
    pub const fn replication_mark(&self) -> u64 {
        self.replication % REPLICATION_MARKS
    }

    /// The instant at which items under `escrow` run. It never goes back, so that no rights of a cell that is over are
    /// spent again.
    pub fn lane_now(&self) -> StoreTime {
        self.now.max(StoreTime::from_millis(self.epoch.latest_ms))
    }

    /// An incarnation that begins with this batch. The other 24 bits, from the holder and the batch, tell apart two
    /// incarnations of one key that begin under one replication id.
    pub fn new_incarnation(&self) -> Incarnation {
        let (who, mark) = (self.holder.0 + self.batch.0, self.replication_mark());
        Incarnation((who % REPLICATION_MARKS * REPLICATION_MARKS + mark).clamp(1, FIRST_NOTE - 1))
    }

    /// `incarnation`, or a new one if another server has become the primary since it began.
    pub fn continue_or_renew(&self, incarnation: Incarnation) -> Incarnation {
        let same = incarnation.0 % REPLICATION_MARKS == self.replication_mark();
        if same { incarnation } else { self.new_incarnation() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_incarnation_is_neither_0_nor_the_number_of_a_note() {
        let incarnation = |holder, batch, replication| {
            let (now, not_after, epoch) = (StoreTime(0), None, LaneEpoch::default());
            BatchContext { now, replication, holder: HolderId(holder), batch: BatchId(batch), not_after, epoch }
                .new_incarnation()
        };
        assert_eq!(incarnation(0, 0, 0), Incarnation(1));
        assert_eq!(incarnation(2, 3, 4), Incarnation(5 * (1 << 24) + 4));
        let most = REPLICATION_MARKS - 1;
        assert_eq!(incarnation(most, 0, most), Incarnation(FIRST_NOTE - 1));
    }
}
