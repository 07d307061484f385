//! A queue of slots that holds each slot at most once. A slot may be evicted and used again while it is queued, so the
//! queue itself knows which slots it holds: it is never longer than the number of slots.

use std::collections::VecDeque;

use crate::ids::SlotId;

/// First in, first out.
#[derive(Debug, Default)]
pub struct SlotQueue {
    slots: VecDeque<SlotId>,
    /// One bit for each slot: 1 if it is queued.
    queued: Vec<u64>,
}

impl SlotQueue {
    /// Adds a slot, unless it is queued already.
    pub fn push(&mut self, slot: SlotId) {
        let (word, bit) = position(slot);
        if word >= self.queued.len() {
            self.queued.resize(word + 1, 0);
        }
        if self.queued[word] & bit == 0 {
            self.queued[word] |= bit;
            self.slots.push_back(slot);
        }
    }

    /// Removes the slot that was added first.
    pub fn pop(&mut self) -> Option<SlotId> {
        let slot = self.slots.pop_front()?;
        let (word, bit) = position(slot);
        self.queued[word] &= !bit;
        Some(slot)
    }

    pub fn len(&self) -> usize {
        self.slots.len()
    }

    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }
}

/// The word of a slot's bit, and the bit.
const fn position(slot: SlotId) -> (usize, u64) {
    (slot.0 as usize / 64, 1 << (slot.0 % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_queued_once_and_again_after_it_was_removed() {
        let mut queue = SlotQueue::default();
        for slot in [7, 70, 7, 700, 70] {
            queue.push(SlotId(slot));
        }
        assert!(!queue.is_empty());
        assert_eq!(queue.queued.len(), 11, "each slot up to 700 takes one bit");
        assert_eq!((queue.len(), queue.pop()), (3, Some(SlotId(7))));
        queue.push(SlotId(7));
        let rest: Vec<_> = std::iter::from_fn(|| queue.pop()).collect();
        assert_eq!(rest, [SlotId(70), SlotId(700), SlotId(7)]);
        assert!(queue.is_empty());
    }
}
