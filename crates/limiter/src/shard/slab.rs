//! Numbered places for the keys of a shard. Growing moves nothing that is there, so no check waits while others move.

use super::key_table::Key;

/// Slots of one chunk.
const CHUNK: usize = 1024;

type Chunk = Box<[Option<Box<Key>>; CHUNK]>;

/// Places in chunks; those that fell free are used again first.
#[derive(Debug, Default)]
pub struct Slots {
    chunks: Vec<Chunk>,
    /// How many places were ever used.
    len: usize,
    /// Free slots, in chunks of their own.
    free: Vec<Vec<u32>>,
}

impl Slots {
    /// How many there are, free ones among them.
    pub const fn len(&self) -> usize {
        self.len
    }

    pub fn get(&self, slot: u32) -> Option<&Key> {
        self.chunks.get(slot as usize / CHUNK)?[slot as usize % CHUNK].as_deref()
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Key> {
        self.place(slot)?.as_deref_mut()
    }

    /// Puts `key` into a free slot; `None` where there are 2^32.
    pub fn insert(&mut self, key: Key) -> Option<u32> {
        let slot = match self.take_free() {
            Some(slot) => slot,
            None => u32::try_from(self.len).ok()?,
        };
        if slot as usize / CHUNK == self.chunks.len() {
            let empty: Vec<_> = (0..CHUNK).map(|_| None).collect();
            self.chunks.push(empty.try_into().ok()?);
        }
        *self.place(slot)? = Some(Box::new(key));
        self.len = self.len.max(slot as usize + 1);
        Some(slot)
    }

    /// Takes the key out; its slot is free.
    pub fn remove(&mut self, slot: u32) -> Option<Box<Key>> {
        let key = self.place(slot)?.take()?;
        match self.free.last_mut() {
            Some(last) if last.len() < CHUNK => last.push(slot),
            _ => self.free.push(vec![slot]),
        }
        Some(key)
    }

    fn place(&mut self, slot: u32) -> Option<&mut Option<Box<Key>>> {
        Some(&mut self.chunks.get_mut(slot as usize / CHUNK)?[slot as usize % CHUNK])
    }

    fn take_free(&mut self) -> Option<u32> {
        let last = self.free.last_mut()?;
        let slot = last.pop();
        if last.is_empty() {
            self.free.pop();
        }
        slot
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::revision::Revision;
    use crate::rules::{Effective, Period, descriptor_limit};

    fn key(effective: &Arc<Effective>, number: usize) -> Key {
        Key::new(number.to_string().as_bytes(), 0, effective)
    }

    #[test]
    fn what_falls_free_is_used_again_before_there_are_more() {
        let effective = Arc::new(descriptor_limit(&"d".into(), 5, Period::Window { ms: 1000 }, Revision(1)));
        let mut slots = Slots::default();
        let count = 2 * CHUNK + 1;
        for number in 0..count {
            assert_eq!(slots.insert(key(&effective, number)), Some(u32::try_from(number).unwrap()));
        }
        let gone = [0, 5, CHUNK, 2 * CHUNK].map(|slot| u32::try_from(slot).unwrap());
        for slot in gone {
            assert_eq!(&*slots.remove(slot).unwrap().name, slot.to_string().as_bytes());
            assert!(slots.remove(slot).is_none() && slots.get(slot).is_none());
        }
        for slot in gone.iter().rev() {
            assert_eq!(slots.insert(key(&effective, 7)), Some(*slot));
        }
        assert_eq!(slots.len(), count);
        assert_eq!(slots.insert(key(&effective, 8)), Some(u32::try_from(count).unwrap()));
        assert_eq!(&*slots.get(6).unwrap().name, b"6");
    }
}
