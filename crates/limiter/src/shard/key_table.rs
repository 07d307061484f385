//! The keys of one shard: found by name, held in slots, bounded in number.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;

use super::slab::Slots;
use crate::invariant::{self, Invariant};
use crate::key::KeyState;
use crate::rules::Effective;
use crate::time::NodeTime;

/// Names are kept in so many tables, which grow one at a time: a check waits for a small one only.
const TABLES: usize = 256;
/// A sweep looks at no more slots, so that of ten million keys each is looked at every two minutes (twenty sweeps a second).
const MOST_LOOKS: usize = 4096;
/// It forgets no more keys, which takes longer than to look at them.
const MOST_FORGOTTEN: usize = 1024;
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

impl Key {
    /// One that was just activated.
    pub fn new(name: &[u8], lane: u16, effective: &Arc<Effective>) -> Self {
        let state = KeyState::new(Arc::clone(effective));
        Self { name: name.into(), lane, queued: false, stalled: false, listed: false, pins: 0, recent: false, state }
    }
}

/// Resident keys by slot and by name.
#[derive(Debug)]
pub struct KeyTable {
    slots: Slots,
    names: Vec<HashTable<Entry>>,
    len: usize,
    hasher: RandomState,
    hand: usize,
    max: usize,
}

/// Where a name is. A table that grows goes by the part of its hash that is here, and looks at no key.
#[derive(Clone, Copy, Debug)]
struct Entry {
    hash: u32,
    slot: u32,
}

impl Entry {
    /// What places it within its table: all bits of it, for the table looks at both ends.
    fn spread(hash: u32) -> u64 {
        u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}

impl KeyTable {
    /// A table of at most `max` keys; `seeds` keep attackers from choosing colliding names.
    pub fn new(max: usize, seeds: [u64; 4]) -> Self {
        let hasher = RandomState::with_seeds(seeds[0], seeds[1], seeds[2], seeds[3]);
        let names = vec![HashTable::new(); TABLES];
        Self { slots: Slots::default(), names, len: 0, hasher, hand: 0, max: max.clamp(1, u32::MAX as usize) }
    }

    pub const fn len(&self) -> usize {
        self.len
    }

    #[inline]
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut Key> {
        self.slots.get_mut(slot)
    }

    /// The table that a name is in, and its hash there.
    #[expect(clippy::cast_possible_truncation, reason = "the halves of a hash")]
    fn place(&self, name: &[u8]) -> (usize, u32) {
        let hash = self.hasher.hash_one(name);
        ((hash >> 32) as usize % TABLES, hash as u32)
    }

    /// The slot of `name`, activated with `make` when it is not resident; `None` when the table is full of keys that
    /// are in use. `spare` is told of keys whose tokens must go back before they can be forgotten.
    pub fn activate(&mut self, name: &[u8], make: impl FnOnce() -> Key, spare: &mut Vec<u32>) -> Option<u32> {
        let (table, hash) = self.place(name);
        let is = |entry: &Entry| entry.hash == hash && self.slots.get(entry.slot).is_some_and(|key| *key.name == *name);
        if let Some(&Entry { slot, .. }) = self.names[table].find(Entry::spread(hash), is) {
            if let Some(key) = self.get_mut(slot) {
                key.recent = true;
            }
            return Some(slot);
        }
        if self.len >= self.max {
            self.make_room(spare)?;
        }
        let slot = self.slots.insert(make())?;
        let entry = Entry { hash, slot };
        self.names[table].insert_unique(Entry::spread(hash), entry, |other| Entry::spread(other.hash));
        self.len += 1;
        invariant::check(Invariant::I10BoundedMemory, self.len <= self.max);
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

    /// Forgets keys about which nothing matters any more, among the next slots: a part of them, and so few that nobody waits
    /// for long meanwhile.
    pub fn sweep(&mut self, now: NodeTime) {
        let mut forgotten = 0;
        for _ in 0..(self.slots.len() / 64 + 16).min(MOST_LOOKS).min(self.slots.len()) {
            let slot = self.advance();
            if self.get_mut(slot).is_some_and(|key| key.pins == 0 && !key.queued && key.state.is_idle(now)) {
                self.remove(slot);
                forgotten += 1;
                if forgotten == MOST_FORGOTTEN {
                    break;
                }
            }
        }
        if self.len == 0 && self.slots.len() > 0 {
            // Give the memory of a past crowd back.
            (self.slots, self.names, self.hand) = (Slots::default(), vec![HashTable::new(); TABLES], 0);
        }
    }

    fn advance(&mut self) -> u32 {
        self.hand = (self.hand + 1) % self.slots.len().max(1);
        u32::try_from(self.hand).unwrap_or(0)
    }

    fn remove(&mut self, slot: u32) {
        let Some(key) = self.slots.remove(slot) else { return };
        let (table, hash) = self.place(&key.name);
        if let Ok(entry) = self.names[table].find_entry(Entry::spread(hash), |entry| entry.slot == slot) {
            entry.remove();
            self.len -= 1;
        }
    }
}
