//! What a node does with the messages of other regions.

use std::collections::BTreeMap;

use super::report::Report;
use crate::counter::{Item, ItemReply};
use crate::ids::{LaneId, RegionNumber};
use crate::time::NodeTime;

/// Turns the messages of other regions into imports, and notices that a primary of the store was replaced or has lost
/// its data. It may have forgotten what other regions told the region. A node that starts does not know whether that
/// happened before. Every acknowledgement therefore says with which [memory](Self::memory) the node heard the message.
#[derive(Debug)]
pub struct Inbox {
    /// The epoch of each lane, in milliseconds ([`LaneEpoch::since_ms`](crate::counter::LaneEpoch::since_ms)).
    epochs: BTreeMap<LaneId, u64>,
    memory: u64,
    /// How often the node looks at every lane, in microseconds.
    look_every_us: u64,
    looked: Option<NodeTime>,
    rejected: u64,
}

impl Inbox {
    /// The inbox of a node that starts. `memory` is random, so that no other inbox has the same. A region whose
    /// messages are not acknowledged for `partition_after_us` is partitioned.
    pub const fn new(memory: u64, partition_after_us: u64) -> Self {
        Self { epochs: BTreeMap::new(), memory, look_every_us: partition_after_us / 4, looked: None, rejected: 0 }
    }

    /// True if the message in hand must look at every lane, also at those that it imports nothing into: the primary of
    /// any may have been replaced. `is_empty` says that the message has no reports.
    pub fn looks_at_lanes(&mut self, is_empty: bool, now: NodeTime) -> bool {
        let is_due = self.looked.is_none_or(|looked| now.since(looked) >= self.look_every_us);
        if is_empty || is_due {
            self.looked = Some(now);
        }
        is_empty || is_due
    }

    /// The item that imports a report of a region. `None` if no sound node sends it, which is counted.
    pub fn import(&mut self, from: RegionNumber, report: Report) -> Option<Item> {
        report.import(from).inspect_err(|_| self.rejected += 1).ok()
    }

    /// The store ran the imports of a lane.
    pub fn imported(&mut self, lane: LaneId, replies: &[ItemReply]) {
        let mut epochs = replies.iter().rev().filter_map(|reply| match reply {
            ItemReply::Imported { epoch_ms } | ItemReply::Taken { epoch_ms, .. } => Some(*epoch_ms),
            _ => None,
        });
        let Some(epoch_ms) = epochs.next() else { return };
        // A lane that is seen for the first time did not answer before.
        if self.epochs.insert(lane, epoch_ms) != Some(epoch_ms) {
            self.memory = self.memory.wrapping_add(1);
        }
    }

    /// Identifies what the node and its store remember. The number changes when they may have forgotten counts of
    /// others: a sender that meets a new memory tells everything again. So it does no harm if an acknowledgement is
    /// lost.
    pub const fn memory(&self) -> u64 {
        self.memory
    }

    /// Reports that were rejected.
    pub const fn rejected(&self) -> u64 {
        self.rejected
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::{Grid, SeenCells};

    #[test]
    fn the_memory_is_a_new_one_after_a_primary_was_replaced_or_answers_for_the_first_time() {
        let mut inbox = Inbox::new(u64::MAX, 2_000_000);
        let mut memory_after = |lane, epoch_ms| {
            inbox.imported(LaneId(lane), &[ItemReply::Failed, ItemReply::Imported { epoch_ms }]);
            inbox.memory()
        };
        assert_eq!(memory_after(0, 7), 0);
        assert_eq!(memory_after(0, 7), 0, "no primary was replaced");
        assert_eq!(memory_after(1, 8), 1, "it did not answer before");
        assert_eq!(memory_after(0, 7), 1);
        assert_eq!(memory_after(1, 9), 2, "it was replaced");
        assert_eq!(memory_after(1, 9), 2);
    }

    #[test]
    fn a_report_that_no_sound_node_sends_is_not_imported_but_counted() {
        let mut inbox = Inbox::new(1, 2_000_000);
        let mut imported = |key: &[u8]| {
            let grid = Grid::Fixed { width_ms: 1000 };
            let item = inbox.import(RegionNumber(7), Report { key: key.into(), grid, cells: SeenCells::Empty });
            (item.map(|item| item.key.into_vec()), inbox.rejected())
        };
        assert_eq!(imported(b"k"), (Some(b"k".to_vec()), 0));
        assert_eq!(imported(b""), (None, 1));
        assert_eq!(imported(b":lane"), (None, 2));
        assert_eq!(imported(b"l"), (Some(b"l".to_vec()), 2));
    }

    #[test]
    fn a_node_looks_at_every_lane_with_an_empty_message_and_after_a_while() {
        let mut inbox = Inbox::new(1, 2_000_000);
        let mut looks = |is_empty, ms: u64| inbox.looks_at_lanes(is_empty, NodeTime(ms * 1000));
        assert!(looks(false, 0), "it has not looked yet");
        assert!(!looks(false, 499));
        assert!(looks(false, 500));
        assert!(looks(true, 600));
        assert!(!looks(false, 1099));
        assert!(looks(false, 1100));
    }
}
