//! A slab: values in numbered slots. It grows in chunks and moves no value, so no check waits while others are moved.

use crate::ids::SlotId;

/// Slots of one chunk.
const CHUNK: usize = 1024;

type Chunk<T> = Box<[Option<Box<T>>; CHUNK]>;

/// Values by slot. A free slot is used again before the slab grows.
#[derive(Debug)]
pub struct Slab<T> {
    chunks: Vec<Chunk<T>>,
    /// Slots that were ever used.
    len: usize,
    /// Free slots, in chunks of their own.
    free: Vec<Vec<SlotId>>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new(), len: 0, free: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// The number of slots, free ones included.
    pub const fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, slot: SlotId) -> Option<&T> {
        let (chunk, at) = position(slot);
        self.chunks.get(chunk)?[at].as_deref()
    }

    pub fn get_mut(&mut self, slot: SlotId) -> Option<&mut T> {
        self.entry(slot)?.as_deref_mut()
    }

    /// Puts `value` into a free slot. `None` if all 2^32 are in use.
    pub fn insert(&mut self, value: T) -> Option<SlotId> {
        let slot = match self.take_free() {
            Some(slot) => slot,
            None => SlotId(u32::try_from(self.len).ok()?),
        };
        if position(slot).0 == self.chunks.len() {
            let empty: Vec<_> = (0..CHUNK).map(|_| None).collect();
            self.chunks.push(empty.try_into().ok()?);
        }
        *self.entry(slot)? = Some(Box::new(value));
        self.len = self.len.max(slot.0 as usize + 1);
        Some(slot)
    }

    /// Takes the value out of a slot, which is free then.
    pub fn remove(&mut self, slot: SlotId) -> Option<Box<T>> {
        let value = self.entry(slot)?.take()?;
        match self.free.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(slot),
            _ => self.free.push(vec![slot]),
        }
        Some(value)
    }

    fn entry(&mut self, slot: SlotId) -> Option<&mut Option<Box<T>>> {
        let (chunk, at) = position(slot);
        Some(&mut self.chunks.get_mut(chunk)?[at])
    }

    fn take_free(&mut self) -> Option<SlotId> {
        let last = self.free.last_mut()?;
        let slot = last.pop();
        if last.is_empty() {
            self.free.pop();
        }
        slot
    }
}

/// The chunk of a slot, and its position there.
const fn position(slot: SlotId) -> (usize, usize) {
    (slot.0 as usize / CHUNK, slot.0 as usize % CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slot(number: usize) -> SlotId {
        SlotId(u32::try_from(number).unwrap())
    }

    #[test]
    fn free_slots_are_reused_before_the_slab_grows() {
        let mut slab = Slab::default();
        let count = 2 * CHUNK + 1;
        for number in 0..count {
            assert_eq!(slab.insert(number), Some(slot(number)));
        }
        let removed = [0, 5, CHUNK, 2 * CHUNK];
        for number in removed {
            assert_eq!(slab.remove(slot(number)), Some(Box::new(number)));
            assert!(slab.remove(slot(number)).is_none() && slab.get(slot(number)).is_none());
        }
        for number in removed.iter().rev() {
            assert_eq!(slab.insert(7), Some(slot(*number)));
        }
        assert_eq!(slab.len(), count);
        assert_eq!(slab.insert(8), Some(slot(count)));
        assert_eq!(slab.get(slot(6)), Some(&6));
    }

    #[test]
    fn free_slots_are_listed_in_chunks_so_that_no_long_list_is_moved() {
        let mut slab = Slab::default();
        let count = 2 * CHUNK + 1;
        (0..count).for_each(|number| assert!(slab.insert(number).is_some()));
        (0..count).for_each(|number| assert!(slab.remove(slot(number)).is_some()));
        assert_eq!(slab.free.iter().map(Vec::len).collect::<Vec<_>>(), [CHUNK, CHUNK, 1]);
    }
}
