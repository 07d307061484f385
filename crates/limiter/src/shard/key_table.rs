//! The resident keys of one shard, by slot and by name. Their number is bounded.

use std::sync::Arc;

use ahash::RandomState;
use hashbrown::HashTable;
use smallvec::SmallVec;

use super::slab::Slab;
use crate::ids::{LaneId, SlotId};
use crate::invariant::{self, Invariant};
use crate::key::KeyState;
use crate::rules::{EffectiveLimit, limit_of, most_common_limit};
use crate::time::NodeTime;

/// Names are spread over this many tables, which grow one at a time: a check waits for the growth of a small one only.
const TABLES: usize = 256;
/// The most slots that one sweep visits. At twenty sweeps a second, each of ten million keys is visited every two
/// minutes.
const SWEEP_SLOTS_MAX: usize = 4096;
/// The most keys that one sweep evicts. An eviction takes longer than a visit.
const SWEEP_REMOVED_MAX: usize = 1024;
/// Keys of a sample from which an activation evicts one when the table is full.
const SAMPLE: usize = 16;
/// Samples that are tried.
const SAMPLES: usize = 2;

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
    /// It was used since it was last in a sample of keys to evict.
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
    /// Where the next sweep begins.
    hand: usize,
    /// Samples so far. Each is another one.
    samples: u64,
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
        Self {
            slots: Slab::default(),
            names,
            len: 0,
            hasher,
            hand: 0,
            samples: 0,
            max: max.clamp(1, u32::MAX as usize),
        }
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

    /// The slot of `name`, activated with `make` if it is not resident. `None` if the table is full, and every key of
    /// the samples is in use. Adds to `released` the keys that must give back their tokens before they can be evicted.
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
            (0..SAMPLES).find_map(|_| self.make_room(released))?;
        }
        let slot = self.slots.insert(make())?;
        let entry = Entry { hash, slot };
        self.names[table].insert_unique(Entry::spread(hash), entry, |other| Entry::spread(other.hash));
        self.len += 1;
        invariant::check(Invariant::I10BoundedMemory, self.len <= self.max);
        Some(slot)
    }

    /// Evicts a key of a random sample that no check needs. It is one of the limit that has the most keys of the
    /// sample, if possible, and one that was not used recently. So a limit with few keys keeps most of them beside one
    /// with many, whose clients choose them.
    fn make_room(&mut self, released: &mut Vec<SlotId>) -> Option<()> {
        let sample = self.sample();
        let limits: SmallVec<[[u8; 8]; SAMPLE]> = sample.iter().map(|(_, limit)| *limit).collect();
        let largest = most_common_limit(&limits)?;
        let mut others: Option<(SlotId, bool)> = None;
        for (slot, limit) in sample {
            let Some(key) = self.get_mut(slot).filter(|key| key.pins == 0 && !key.queued) else { continue };
            let is_of_largest = limit == largest;
            let used = if is_of_largest { std::mem::take(&mut key.recent) } else { true };
            if !key.state.is_evictable() {
                if !used && key.state.release() {
                    released.push(slot);
                }
            } else if !used {
                self.remove(slot);
                return Some(());
            } else if others.is_none_or(|(_, of_largest)| is_of_largest && !of_largest) {
                others = Some((slot, is_of_largest));
            }
        }
        others.map(|(slot, _)| self.remove(slot))
    }

    /// Random slots that have a key, each with the limit of the key.
    fn sample(&mut self) -> SmallVec<[(SlotId, [u8; 8]); SAMPLE]> {
        self.samples = self.samples.wrapping_add(1);
        let slots = self.slots.len().max(1) as u64;
        let random = |probe| self.hasher.hash_one((self.samples, probe)) % slots;
        let slot = |probe: u64| SlotId(u32::try_from(random(probe)).unwrap_or(0));
        let key = |slot| self.slots.get(slot).map(|key| (slot, limit_of(&key.name)));
        (0..SAMPLE as u64).map(slot).filter_map(key).collect()
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
    use std::collections::BTreeMap;

    use crate::revision::Revision;
    use crate::rules::{Algorithm, Limit, Match, Mode, OnStoreFailure, Period, Quota, Scope};

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

    #[test]
    fn keys_of_a_limit_with_many_make_room_and_those_of_limits_with_few_stay() {
        let limit = Limit {
            name: "l".to_owned(),
            matches: Match::default(),
            per: vec!["user".into()],
            limit: Quota::Hits(1),
            period: Period::Window { ms: 1000 },
            algorithm: Algorithm::FixedWindow,
            cells: None,
            burst: None,
            consistency: None,
            scope: Scope::Region,
            overdraft: false,
            on_store_failure: OnStoreFailure::Local,
            mode: Mode::Enforce,
            overrides: Vec::new(),
            replaces: Vec::new(),
            response_headers: BTreeMap::default(),
        };
        let effective = Arc::new(EffectiveLimit::new(&"d".into(), &limit, None, Revision(1)));
        let mut table = KeyTable::new(1000, [1, 2, 3, 4]);
        let mut activate = |name: String| {
            let make = || Key::new(name.as_bytes(), LaneId(0), &effective);
            let slot = table.activate(name.as_bytes(), make, &mut Vec::new());
            (slot.is_some(), table.len())
        };
        for at in 0..100 {
            activate(format!("few-keys/{at}"));
        }
        for at in 0..10_000 {
            assert!(activate(format!("manykeys/{at}")).0);
        }
        let keys = (0..1000).filter_map(|slot| table.slots.get(SlotId(slot)));
        let few = keys.filter(|key| key.name.starts_with(b"few-keys/")).count();
        // A sample with more of its keys than of the others is rarer than one in ten thousand.
        assert!(table.len() == 1000 && few >= 95, "{few} of 100 keys are left");
    }
}
