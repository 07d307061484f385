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
        let (mut of_largest, mut of_others) = (None, None);
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
            } else {
                let used = if is_of_largest { &mut of_largest } else { &mut of_others };
                used.get_or_insert(slot);
            }
        }
        of_largest.or(of_others).map(|slot| self.remove(slot))
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
    use std::collections::BTreeSet;
    use std::sync::LazyLock;

    use crate::key::BatchTimes;
    use crate::key::samples::{CELL_MS, CX, ask, fixed_window, grant};

    const SEEDS: [u64; 4] = [1, 2, 3, 4];
    static LIMIT: LazyLock<Arc<EffectiveLimit>> = LazyLock::new(|| Arc::new(fixed_window(10)));

    /// A table with room for `max` keys, and these names.
    fn table_of(max: usize, names: impl IntoIterator<Item = String>) -> KeyTable {
        let mut table = KeyTable::new(max, SEEDS);
        for name in names {
            assert!(activate(&mut table, &name).is_some());
        }
        table
    }

    fn activate(table: &mut KeyTable, name: &str) -> Option<SlotId> {
        table.activate(name.as_bytes(), || Key::new(name.as_bytes(), LaneId(0), &LIMIT), &mut Vec::new())
    }

    fn names(of: &str, count: usize) -> impl Iterator<Item = String> {
        (0..count).map(move |at| format!("{of}/{at}"))
    }

    /// The number of resident keys of a limit.
    fn count(table: &KeyTable, of: &str) -> usize {
        keys(table).filter(|key| key.name.starts_with(of.as_bytes())).count()
    }

    fn keys(table: &KeyTable) -> impl Iterator<Item = &Key> {
        (0..u32::try_from(table.slots.len()).unwrap()).filter_map(|slot| table.slots.get(SlotId(slot)))
    }

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
    fn the_hashes_of_a_table_differ_at_both_ends() {
        let distinct = |part: fn(u64) -> u64| {
            let parts: BTreeSet<u64> = (0..128).map(|hash| part(Entry::spread(hash))).collect();
            parts.len()
        };
        assert_eq!(distinct(|hash| hash % 128), 128);
        assert!(distinct(|hash| hash >> 57) > 100);
    }

    #[test]
    fn two_names_with_one_hash_are_two_keys() {
        let mut table = table_of(10, names("user", 1));
        let first = activate(&mut table, "user/0").unwrap();
        // As if the name of the first key had the hash of the other name.
        let (at, hash) = table.hash(b"other");
        table.names[at]
            .insert_unique(Entry::spread(hash), Entry { hash, slot: first }, |other| Entry::spread(other.hash));
        assert_ne!(activate(&mut table, "other"), Some(first));
    }

    #[test]
    fn keys_of_a_limit_with_many_make_room_and_those_of_limits_with_few_stay() {
        let table = table_of(1000, names("few-keys", 100).chain(names("manykeys", 10_000)));
        let few = count(&table, "few-keys");
        // A sample with more of its keys than of the others is rarer than one in ten thousand.
        assert!(table.len() == 1000 && few >= 95, "{few} of 100 keys are left");
        // Of keys that are used once, any may make room.
        let newest = count(&table, "manykeys/99");
        assert!(newest >= 80, "{newest} of the newest 111 keys are left");
    }

    #[test]
    fn keys_of_limits_with_few_stay_even_if_all_were_used_recently() {
        let mut table = table_of(1000, names("few-keys", 200).chain(names("manykeys", 800)));
        for name in names("manykeys-newer", 50) {
            for slot in 0..1000 {
                table.get_mut(SlotId(slot)).unwrap().recent = true;
            }
            assert!(activate(&mut table, &name).is_some());
        }
        let few = count(&table, "few-keys");
        assert!(table.len() == 1000 && few >= 198, "{few} of 200 keys are left");
    }

    #[test]
    fn a_key_that_a_check_needs_or_that_is_queued_makes_no_room() {
        let mut table = table_of(2, names("user", 2));
        let [pinned, queued] = ["user/0", "user/1"].map(|name| activate(&mut table, name).unwrap());
        table.get_mut(pinned).unwrap().pins = 1;
        table.get_mut(queued).unwrap().queued = true;
        assert_eq!(activate(&mut table, "other"), None);
        assert_eq!(count(&table, "user"), 2);
        table.get_mut(queued).unwrap().queued = false;
        assert_eq!(activate(&mut table, "other"), Some(queued));
    }

    #[test]
    fn a_key_with_tokens_must_give_them_back_before_it_makes_room() {
        let mut table = table_of(1, names("user", 1));
        let state = &mut table.get_mut(SlotId(0)).unwrap().state;
        state.ask(ask(1, 1, &LIMIT));
        assert!(state.next_item(b"user/0", &CX).is_some());
        let times = BatchTimes { sent: CX.now, ran: CX.store_now };
        state.complete(grant(CELL_MS, &[1], 4), &times, &CX, &mut Vec::new());
        let mut released = Vec::new();
        let other = table.activate(b"other", || Key::new(b"other", LaneId(0), &LIMIT), &mut released);
        assert_eq!((other, released), (None, vec![SlotId(0)]), "it is named once");
    }

    #[test]
    fn a_sweep_visits_a_part_of_the_slots_and_evicts_a_bounded_number_of_idle_keys() {
        // 16 slots and one in 64, but at most 1,024 evictions.
        for (keys, evicted) in [(10, 10), (6400, 116), (80_000, 1024)] {
            let mut table = table_of(keys, names("user", keys));
            table.sweep(CX.now);
            assert_eq!(table.len(), keys - evicted, "of {keys} keys");
        }
    }

    #[test]
    fn sweeps_evict_all_keys_but_those_in_use_and_give_the_memory_back_at_last() {
        let mut table = table_of(1000, names("user", 1000));
        table.get_mut(SlotId(3)).unwrap().pins = 1;
        table.get_mut(SlotId(7)).unwrap().queued = true;
        let sweep_all = |table: &mut KeyTable| (0..100).for_each(|_| table.sweep(CX.now));
        sweep_all(&mut table);
        assert_eq!(keys(&table).map(|key| &*key.name).collect::<Vec<_>>(), [b"user/3", b"user/7"]);
        assert_eq!((table.len(), table.slots.len()), (2, 1000));
        table.get_mut(SlotId(3)).unwrap().pins = 0;
        table.get_mut(SlotId(7)).unwrap().queued = false;
        sweep_all(&mut table);
        assert_eq!((table.len(), table.slots.len()), (0, 0));
    }
}
