//! What a node does with the messages of other regions.

use std::collections::{BTreeMap, BTreeSet};

use super::report::Report;
use crate::counter::{Item, ItemReply};
use crate::ids::{LaneId, RegionNumber};

/// Senders that are remembered as told. The nodes of the other regions are fewer.
const MAX_SENDERS: usize = 4096;

/// Turns the messages of other regions into imports, and notices that a primary of the store was replaced or has lost its
/// data. It may have forgotten what other regions told the region, so their nodes are asked to tell everything again. A
/// node that starts does not know whether that happened before, so it asks, too.
#[derive(Debug, Default)]
pub struct Inbox {
    /// The epoch of each lane, in milliseconds ([`LaneEpoch::since_ms`](crate::counter::LaneEpoch::since_ms)).
    epochs: BTreeMap<LaneId, u64>,
    /// The senders that were asked to tell everything since the node started or an epoch began.
    asked: BTreeSet<Box<str>>,
    rejected: u64,
}

impl Inbox {
    pub const fn new() -> Self {
        Self { epochs: BTreeMap::new(), asked: BTreeSet::new(), rejected: 0 }
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
            self.asked.clear();
        }
    }

    /// True if the acknowledgement to this sender must ask it to tell everything again. It is asked once.
    pub fn must_ask(&mut self, sender: &str) -> bool {
        if self.asked.contains(sender) {
            return false;
        }
        if self.asked.len() >= MAX_SENDERS {
            self.asked.clear();
        }
        self.asked.insert(sender.into())
    }

    /// The acknowledgement with which a sender was asked was not delivered: the next one asks again.
    pub fn ask_again(&mut self, sender: &str) {
        self.asked.remove(sender);
    }

    /// Reports that were rejected.
    pub const fn rejected(&self) -> u64 {
        self.rejected
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn imported(inbox: &mut Inbox, lane: u16, epoch_ms: u64) {
        inbox.imported(LaneId(lane), &[ItemReply::Failed, ItemReply::Imported { epoch_ms }]);
    }

    #[test]
    fn every_sender_is_asked_once_after_the_start_and_after_a_primary_was_replaced() {
        let mut inbox = Inbox::new();
        let asked = |inbox: &mut Inbox| ["eu-1", "eu-1", "ap-1"].map(|sender| inbox.must_ask(sender));
        assert_eq!(asked(&mut inbox), [true, false, true], "the node starts");
        for (lane, epoch_ms) in [(0, 7), (1, 8), (0, 7)] {
            imported(&mut inbox, lane, epoch_ms);
        }
        assert_eq!(asked(&mut inbox), [false; 3], "no primary was replaced");
        imported(&mut inbox, 1, 9);
        assert_eq!(asked(&mut inbox), [true, false, true]);
        imported(&mut inbox, 0, 10);
        assert!(inbox.must_ask("eu-1"), "another one was replaced");
        inbox.ask_again("eu-1");
        assert!(inbox.must_ask("eu-1"), "it did not hear that");
    }
}
