//! The keys of one shard: found by name, held in slots, bounded in number.

use ahash::RandomState;
use hashbrown::HashTable;

use super::invariant::{self, Invariant};
use super::key_state::KeyState;
use super::time::NodeTime;

/// How many slots an activation looks through for a key to forget when the table is full.
const EVICTION_LOOKS: usize = 32;

/// One resident key.
#[derive(Debug)]
pub struct Key {
    pub name: Box<[u8]>,
    pub lane: u16,
    /// It is in its lane's queue.
    pub queued: bool,
    /// The shard's list of keys to try again has it.
    pub stalled: bool,
    /// The shard's list of leases has it.
    pub listed: bool,
    /// How many checks under way hold on to it.
    pub pins: u32,
    /// It was used since the clock hand last passed.
    pub recent: bool,
    pub state: KeyState,
}

/// Resident keys by slot and by name.
#[derive(Debug)]
pub struct KeyTable {
    slots: Vec<Option<Box<Key>>>,
    free: Vec<u32>,
    names: HashTable<u32>,
    hasher: RandomState,
    hand: usize,
    max: usize,
}

impl KeyTable {
    /// A table of at most `max` keys; `seeds` keep attackers from choosing colliding names.
    pub fn new(max: usize, seeds: [u64; 4]) -> Self {
        let hasher = RandomState::with_seeds(seeds[0], seeds[1], seeds[2], seeds[3]);
        let max = max.clamp(1, u32::MAX as usize);
        Self { slots: Vec::new(), free: Vec::new(), names: HashTable::new(), hasher, hand: 0, max }
    }

    pub fn len(&self) -> usize {
        self.names.len()
    }

    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Key> {
        self.slots.get_mut(slot as usize)?.as_deref_mut()
    }

    /// The slot of `name`, activated with `make` when it is not resident; `None` when the table is full of keys that
    /// are in use. `spare` is told of keys whose tokens must go back before they can be forgotten.
    pub fn activate(&mut self, name: &[u8], make: impl FnOnce() -> Key, spare: &mut Vec<u32>) -> Option<u32> {
        let hash = self.hasher.hash_one(name);
        let slots = &self.slots;
        let is = |slot: &u32| slots[*slot as usize].as_ref().is_some_and(|key| *key.name == *name);
        if let Some(slot) = self.names.find(hash, is) {
            let slot = *slot;
            if let Some(key) = self.get_mut(slot) {
                key.recent = true;
            }
            return Some(slot);
        }
        if self.names.len() >= self.max {
            self.make_room(spare)?;
        }
        let key = Some(Box::new(make()));
        let slot = match self.free.pop() {
            Some(slot) => {
                self.slots[slot as usize] = key;
                slot
            }
            None => {
                self.slots.push(key);
                u32::try_from(self.slots.len() - 1).ok()?
            }
        };
        let (slots, hasher) = (&self.slots, &self.hasher);
        let rehash = |slot: &u32| slots[*slot as usize].as_ref().map_or(0, |key| hasher.hash_one(&*key.name));
        self.names.insert_unique(hash, slot, rehash);
        invariant::check(Invariant::I10BoundedMemory, self.names.len() <= self.max);
        Some(slot)
    }

    /// Forgets a key that nobody uses: the second-chance algorithm over a bounded number of slots, so that where all of
    /// them were used lately one of those goes.
    fn make_room(&mut self, spare: &mut Vec<u32>) -> Option<()> {
        let mut lately = None;
        for _ in 0..EVICTION_LOOKS {
            let slot = self.advance();
            let Some(key) = self.get_mut(slot) else { continue };
            let used = std::mem::take(&mut key.recent);
            if key.pins > 0 || key.queued {
                continue;
            }
            if !key.state.is_evictable() {
                if !used && key.state.release() {
                    spare.push(slot);
                }
            } else if used {
                lately = lately.or(Some(slot));
            } else {
                self.remove(slot);
                return Some(());
            }
        }
        lately.map(|slot| self.remove(slot))
    }

    /// Looks at the next `count` slots and forgets the keys about which nothing matters any more.
    pub fn sweep(&mut self, count: usize, now: NodeTime) {
        for _ in 0..count.min(self.slots.len()) {
            let slot = self.advance();
            if self.get_mut(slot).is_some_and(|key| key.pins == 0 && !key.queued && key.state.is_idle(now)) {
                self.remove(slot);
            }
        }
        if self.names.is_empty() {
            // Give the memory of a past crowd back.
            (self.slots, self.free, self.names, self.hand) = (Vec::new(), Vec::new(), HashTable::new(), 0);
        }
    }

    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    fn advance(&mut self) -> u32 {
        self.hand = (self.hand + 1) % self.slots.len().max(1);
        u32::try_from(self.hand).unwrap_or(0)
    }

    fn remove(&mut self, slot: u32) {
        let Some(key) = self.slots.get_mut(slot as usize).and_then(Option::take) else { return };
        if let Ok(entry) = self.names.find_entry(self.hasher.hash_one(&*key.name), |s| *s == slot) {
            entry.remove();
        }
        self.free.push(slot);
    }
}
