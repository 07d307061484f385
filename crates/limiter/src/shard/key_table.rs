//! The resident keys of one shard, by slot and by name. Their number is bounded.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;

use super::slab::Slab;
use crate::ids::{LaneId, SlotId};
use crate::invariant::{self, Invariant};
use crate::key::KeyState;
use crate::rules::EffectiveLimit;
use crate::time::NodeTime;

/// Names are spread over this many tables, which grow one at a time: a check waits for the growth of a small one only.
const TABLES: usize = 256;
/// The most slots that one sweep visits. At twenty sweeps a second, each of ten million keys is visited every two
/// minutes.
const SWEEP_SLOTS_MAX: usize = 4096;
/// The most keys that one sweep evicts. An eviction takes longer than a visit.
const SWEEP_REMOVED_MAX: usize = 1024;
/// The most slots that an activation visits to find a key to evict when the table is full.
const EVICTION_PROBES_MAX: usize = 32;

/// One resident key.
#[derive(Debug)]
pub struct Key {
    pub name: Box<[u8]>,
    pub lane: LaneId,
    /// It is in the queue of its lane.
    pub queued: bool,
    /// The end of its lease is tracked.
    pub lease_tracked: bool,
    /// Pending checks that need it.
    pub pins: u32,
    /// It was used since the hand of the second-chance algorithm last passed.
    pub recent: bool,
    pub state: KeyState,
}

impl Key {
    /// A key that was just activated.
    pub fn new(name: &[u8], lane: LaneId, effective: &Arc<EffectiveLimit>) -> Self {
        let state = KeyState::new(Arc::clone(effective));
        Self { name: name.into(), lane, queued: false, lease_tracked: false, pins: 0, recent: false, state }
    }
}

/// Resident keys by slot and by name.
#[derive(Debug)]
pub struct KeyTable {
    slots: Slab<Key>,
    names: Vec<HashTable<Entry>>,
    len: usize,
    hasher: RandomState,
    hand: usize,
    max: usize,
}

/// The slot of a name. A table that grows uses the part of the hash that is stored here, and visits no key.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    slot: SlotId,
}

impl Entry {
    /// The hash within the table. It uses all bits, because the table uses both ends.
    fn spread(hash: u32) -> u64 {
        u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl KeyTable {
    /// A table of at most `max` keys. `seeds` are secret, so that no client can choose names that collide.
    pub fn new(max: usize, seeds: [u64; 4]) -> Self {
        let hasher = RandomState::with_seeds(seeds[0], seeds[1], seeds[2], seeds[3]);
        let names = vec![HashTable::new(); TABLES];
        Self { slots: Slab::default(), names, len: 0, hasher, hand: 0, max: max.clamp(1, u32::MAX as usize) }
    }

    pub const fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn get_mut(&mut self, slot: SlotId) -> Option<&mut Key> {
        self.slots.get_mut(slot)
    }

    /// The table of a name, and its hash there.
    #[expect(clippy::cast_possible_truncation, reason = "the halves of a hash")]
    fn hash(&self, name: &[u8]) -> (usize, u32) {
        let hash = self.hasher.hash_one(name);
        ((hash >> 32) as usize % TABLES, hash as u32)
    }

    /// The slot of `name`, activated with `make` if it is not resident. `None` if every key of a full table is in use.
    /// Adds to `released` the keys that must give back their tokens before they can be evicted.
    pub fn activate(&mut self, name: &[u8], make: impl FnOnce() -> Key, released: &mut Vec<SlotId>) -> Option<SlotId> {
        let (table, hash) = self.hash(name);
        let is = |entry: &Entry| entry.hash == hash && self.slots.get(entry.slot).is_some_and(|key| *key.name == *name);
        if let Some(&Entry { slot, .. }) = self.names[table].find(Entry::spread(hash), is) {
            if let Some(key) = self.get_mut(slot) {
                key.recent = true;
            }
            return Some(slot);
        }
        if self.len >= self.max {
            self.make_room(released)?;
        }
        let slot = self.slots.insert(make())?;
        let entry = Entry { hash, slot };
        self.names[table].insert_unique(Entry::spread(hash), entry, |other| Entry::spread(other.hash));
        self.len += 1;
        invariant::check(Invariant::I10BoundedMemory, self.len <= self.max);
        Some(slot)
    }

    /// Evicts a key that no check needs, by the second-chance algorithm over a bounded number of slots. If all of them
    /// were used recently, one of those is evicted.
    fn make_room(&mut self, released: &mut Vec<SlotId>) -> Option<()> {
        let mut recent = None;
        for _ in 0..EVICTION_PROBES_MAX {
            let slot = self.advance();
            let Some(key) = self.get_mut(slot) else { continue };
            let used = std::mem::take(&mut key.recent);
            if key.pins > 0 || key.queued {
                continue;
            }
            if !key.state.is_evictable() {
                if !used && key.state.release() {
                    released.push(slot);
                }
            } else if used {
                recent = recent.or(Some(slot));
            } else {
                self.remove(slot);
                return Some(());
            }
        }
        recent.map(|slot| self.remove(slot))
    }

    /// Visits the next slots and evicts idle keys. Both are bounded, so that no check waits for long.
    pub fn sweep(&mut self, now: NodeTime) {
        let mut removed = 0;
        for _ in 0..(self.slots.len() / 64 + 16).min(SWEEP_SLOTS_MAX).min(self.slots.len()) {
            let slot = self.advance();
            if self.get_mut(slot).is_some_and(|key| key.pins == 0 && !key.queued && key.state.is_idle(now)) {
                self.remove(slot);
                removed += 1;
                if removed == SWEEP_REMOVED_MAX {
                    break;
                }
            }
        }
        if self.len == 0 && self.slots.len() > 0 {
            // Give the memory of a past peak back.
            (self.slots, self.names, self.hand) = (Slab::default(), vec![HashTable::new(); TABLES], 0);
        }
    }

    fn advance(&mut self) -> SlotId {
        self.hand = (self.hand + 1) % self.slots.len().max(1);
        SlotId(u32::try_from(self.hand).unwrap_or(0))
    }

    fn remove(&mut self, slot: SlotId) {
        let Some(key) = self.slots.remove(slot) else { return };
        let (table, hash) = self.hash(&key.name);
        if let Ok(entry) = self.names[table].find_entry(Entry::spread(hash), |entry| entry.slot == slot) {
            entry.remove();
            self.len -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Who knows no seeds cannot choose names that share a table.
    #[test]
    fn names_that_collide_under_some_seeds_are_spread_under_others() {
        let [known, secret] = [[1, 2, 3, 4], [5, 6, 7, 8]].map(|seeds| KeyTable::new(10, seeds));
        let names = (0..100_000).map(|at| format!("user-{at}"));
        let colliding: Vec<String> = names.filter(|name| known.hash(name.as_bytes()).0 == 0).collect();
        let mut tables: Vec<usize> = colliding.iter().map(|name| secret.hash(name.as_bytes()).0).collect();
        tables.sort_unstable();
        tables.dedup();
        assert!(colliding.len() > 200 && tables.len() > 100, "{} names in {} tables", colliding.len(), tables.len());
    }
}
