//! What a node does with the messages of other regions.

use std::collections::BTreeMap;

use super::report::Report;
use crate::counter::{Item, ItemReply};
use crate::ids::{LaneId, RegionNumber};

/// Turns the messages of other regions into imports, and notices that a primary of the store was replaced or has lost its
/// data. It may have forgotten what other regions told the region. A node that starts does not know whether that happened
/// before. Every acknowledgement therefore says with which [memory](Self::memory) the node heard the message.
#[derive(Debug)]
pub struct Inbox {
    /// The epoch of each lane, in milliseconds ([`LaneEpoch::since_ms`](crate::counter::LaneEpoch::since_ms)).
    epochs: BTreeMap<LaneId, u64>,
    memory: u64,
    rejected: u64,
}

impl Inbox {
    /// The inbox of a node that starts. `memory` is random, so that no other inbox has the same.
    pub const fn new(memory: u64) -> Self {
        Self { epochs: BTreeMap::new(), memory, rejected: 0 }
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
        if self.epochs.insert(lane, epoch_ms).is_some_and(|before| before != epoch_ms) {
            self.memory = self.memory.wrapping_add(1);
        }
    }

    /// Names what the node and its store remember. It is another one once they may have forgotten what they were told:
    /// a sender that meets a new memory tells everything again. So it does no harm if an acknowledgement is lost.
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

    #[test]
    fn the_memory_is_a_new_one_after_a_primary_was_replaced() {
        let mut inbox = Inbox::new(u64::MAX);
        let mut memory_after = |lane, epoch_ms| {
            inbox.imported(LaneId(lane), &[ItemReply::Failed, ItemReply::Imported { epoch_ms }]);
            inbox.memory()
        };
        for (lane, epoch_ms) in [(0, 7), (1, 8), (0, 7)] {
            assert_eq!(memory_after(lane, epoch_ms), u64::MAX, "no primary was replaced");
        }
        assert_eq!(memory_after(1, 9), 0);
        assert_eq!(memory_after(1, 9), 0);
        assert_eq!(memory_after(0, 10), 1, "another one was replaced");
    }
}
