//! The memory store: one per process, shared by its cores, for `dev` and for single nodes. A restart loses all
//! counters.

use std::sync::{Arc, Mutex, PoisonError};

use indexmap::IndexMap;
use prometheus::IntCounter;
use tokio::sync::watch;

use crate::ports::{BoxFuture, Clock, CounterStore, Fatal, Region, RegionState, Service, Shutdown, StoreHealth};
use limiter::counter::{self, Batch, BatchContext, BatchReply, Item, ItemReply, LaneEpoch, Record, StoreError};
use limiter::{LaneId, StoreTime};

/// How many records are checked for expiry for each item of a batch.
const SWEEP_PER_ITEM: usize = 2;
/// The number of hash maps that the records are spread over. They grow one at a time, so no batch waits while all
/// records move.
const MAPS: usize = 256;
/// How many records are looked at to find one to forget. An exact order by expiry would cost each charge a change of
/// it.
const EVICTION_SAMPLE: usize = 16;

/// Counters in the memory of this process.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    /// The most records. A further key takes the place of a record that expires soon.
    max_keys: usize,
    /// Counts records that are forgotten before they expire.
    evicted: Option<IntCounter>,
    state: Mutex<State>,
}

struct State {
    hasher: ahash::RandomState,
    maps: Vec<IndexMap<Box<[u8]>, Entry>>,
    /// The number of records in all maps.
    len: usize,
    lane: Option<LaneEpoch>,
    /// Where the next sweep begins: the map, and the index in it.
    sweep_position: (usize, usize),
    /// Records that were forgotten before they expired.
    evictions: u64,
}

struct Entry {
    /// `None` if the last item left nothing to remember.
    record: Option<Record>,
    expiry: StoreTime,
}

impl MemoryStore {
    /// Returns an empty store that holds at most `max_keys` records, and at least one.
    pub fn new(clock: Arc<dyn Clock>, max_keys: usize) -> Self {
        Self { clock, max_keys: max_keys.max(1), evicted: None, state: Mutex::new(State::new()) }
    }

    /// Returns this store, with a counter of records that are forgotten before they expire.
    #[must_use]
    pub fn counting_evictions(self, evicted: IntCounter) -> Self {
        Self { evicted: Some(evicted), ..self }
    }

    /// Returns the number of keys in the store.
    pub fn len(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn run_now(&self, batch: &Batch) -> BatchReply {
        let now = StoreTime(self.clock.wall().0);
        // A panic loses only the record of its own item, so a poisoned lock is usable.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lane = state.lane;
        let evictions = state.evictions;
        let reply = counter::run(batch, now, 1, &mut lane, |item, cx| state.apply(item, cx, self.max_keys));
        state.lane = lane;
        if let Some(evicted) = &self.evicted {
            evicted.inc_by(state.evictions - evictions);
        }
        state.sweep(SWEEP_PER_ITEM * batch.items.len(), now);
        reply
    }
}

impl State {
    fn new() -> Self {
        let maps = (0..MAPS).map(|_| IndexMap::new()).collect();
        Self { hasher: ahash::RandomState::new(), maps, len: 0, lane: None, sweep_position: (0, 0), evictions: 0 }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below the number of maps")]
    fn apply(&mut self, item: &Item, cx: BatchContext, max_keys: usize) -> ItemReply {
        let map = (self.hasher.hash_one(&item.key) % MAPS as u64) as usize;
        let Some(entry) = self.maps[map].get_mut(&item.key) else {
            let mut record = None;
            let reply = counter::apply(&mut record, item, cx);
            if let Some(record) = record {
                if self.len >= max_keys {
                    self.evict();
                }
                let expiry = counter::expires_at(&record, item);
                self.maps[map].insert(item.key.clone(), Entry { record: Some(record), expiry });
                self.len += 1;
            }
            return reply;
        };
        let reply = counter::apply(&mut entry.record, item, cx);
        // The next sweep removes an empty entry.
        entry.expiry = entry.record.as_ref().map_or(StoreTime(0), |record| counter::expires_at(record, item));
        reply
    }

    /// Forgets the record of a sample that expires soonest.
    #[expect(clippy::cast_possible_truncation, reason = "the remainders are below lengths")]
    fn evict(&mut self) {
        let mut soonest: Option<(StoreTime, usize, usize)> = None;
        for probe in 0..EVICTION_SAMPLE as u64 {
            let random = self.hasher.hash_one((self.evictions, probe));
            let first = (random % MAPS as u64) as usize;
            // A small store has many maps without records.
            let Some(map) = (first..first + MAPS).map(|map| map % MAPS).find(|map| !self.maps[*map].is_empty()) else {
                return;
            };
            let index = ((random >> 32) % self.maps[map].len() as u64) as usize;
            let expiry = self.maps[map][index].expiry;
            if soonest.is_none_or(|(other, ..)| expiry < other) {
                soonest = Some((expiry, map, index));
            }
        }
        if let Some((_, map, index)) = soonest {
            self.maps[map].swap_remove_index(index);
            self.len -= 1;
            self.evictions += 1;
        }
    }

    /// Checks the next `count` records, and removes those that have expired.
    fn sweep(&mut self, count: usize, now: StoreTime) {
        let (mut map, mut index) = self.sweep_position;
        for _ in 0..count {
            let records = &mut self.maps[map];
            match records.get_index(index) {
                Some((_, entry)) if entry.expiry < now => {
                    records.swap_remove_index(index);
                    self.len -= 1;
                }
                Some(_) => index += 1,
                None => {
                    if records.is_empty() {
                        // Frees the memory that the map needed when it had many records.
                        *records = IndexMap::new();
                    }
                    (map, index) = ((map + 1) % MAPS, 0);
                }
            }
        }
        self.sweep_position = (map, index);
    }
}

impl CounterStore for MemoryStore {
    fn lanes(&self) -> u16 {
        1
    }

    fn lane(&self, _key: &[u8]) -> LaneId {
        LaneId(0)
    }

    fn run(&self, _lane: LaneId, batch: Batch) -> BoxFuture<'_, Result<BatchReply, StoreError>> {
        Box::pin(std::future::ready(Ok(self.run_now(&batch))))
    }
}

/// A region with one process, which counts in its own memory.
pub struct SingleNodeRegion {
    store: Arc<MemoryStore>,
    holders: watch::Sender<u32>,
}

impl SingleNodeRegion {
    /// Returns a region whose process has this many `cores`, which share the store.
    pub fn new(store: Arc<MemoryStore>, cores: u32) -> Self {
        Self { store, holders: watch::Sender::new(cores) }
    }
}

impl Region for SingleNodeRegion {
    fn store(&self) -> Arc<dyn CounterStore> {
        Arc::clone(&self.store) as Arc<dyn CounterStore>
    }

    fn holders(&self) -> watch::Receiver<u32> {
        self.holders.subscribe()
    }

    fn state(&self) -> RegionState {
        // A store in this process is always reachable.
        RegionState { reached: true, store: StoreHealth::Ok, advice: Vec::new() }
    }
}

impl Service for SingleNodeRegion {
    fn name(&self) -> &'static str {
        "region"
    }

    fn run(&self, mut shutdown: Shutdown) -> BoxFuture<'_, Result<(), Fatal>> {
        Box::pin(async move {
            shutdown.requested().await;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;
    use limiter::counter::{Ask, BatchOutcome, Counter, Debts, Grid, SeenCells};
    use limiter::{BatchId, HolderId, NodeTime, WallTime};

    struct ManualClock(AtomicU64);

    impl Clock for ManualClock {
        fn now(&self) -> NodeTime {
            NodeTime(self.0.load(Ordering::Relaxed))
        }

        fn wall(&self) -> WallTime {
            WallTime(self.0.load(Ordering::Relaxed))
        }
    }

    const SHORT_MS: u64 = 1000;
    const LONG_MS: u64 = 1_000_000;

    fn store(clock: &Arc<ManualClock>, max_keys: usize) -> (MemoryStore, IntCounter) {
        let evicted = IntCounter::new("evicted", "records that were evicted").unwrap();
        let store = MemoryStore::new(Arc::<ManualClock>::clone(clock), max_keys);
        (store.counting_evictions(evicted.clone()), evicted)
    }

    fn charge(store: &MemoryStore, key: &str, width_ms: u64) -> ItemReply {
        ask(store, key, Grid::Fixed { width_ms }, 5, 1)
    }

    fn ask(store: &MemoryStore, key: &str, grid: Grid, limit: u64, hits: u64) -> ItemReply {
        let counter = Counter::Window {
            grid,
            limit,
            seen: SeenCells::Empty,
            returns: Vec::new(),
            debts: Debts::default(),
            lease: None,
            share: None,
            escrow: None,
        };
        let asks = vec![Ask { hits, count: 1, overdraft: false }];
        let item = Item { key: key.as_bytes().into(), asks, refund: 0, counter };
        match store.run_now(&Batch { not_after: None, holder: HolderId(1), id: BatchId(1), items: vec![item] }).outcome
        {
            BatchOutcome::Ran(mut replies) => replies.pop().unwrap(),
            BatchOutcome::Late => panic!("the batch has no deadline"),
        }
    }

    /// Whether hits were granted, and the instant at which they fit if not.
    fn granted(reply: ItemReply) -> (bool, Option<StoreTime>) {
        match reply {
            ItemReply::Done(grant) => (grant.granted[0].count == 1, grant.granted[0].fits_at),
            other => panic!("expected a grant, not {other:?}"),
        }
    }

    #[test]
    fn each_window_grants_the_limit_again() {
        let clock = Arc::new(ManualClock(AtomicU64::new(10_300_000)));
        let (store, evicted) = store(&clock, 10);
        let ask_all = || granted(ask(&store, "a", Grid::Fixed { width_ms: SHORT_MS }, 5, 5));
        for end in [11_000_000, 12_000_000, 13_000_000, 14_000_000] {
            assert_eq!(ask_all(), (true, None), "the window until {end}");
            assert_eq!(ask_all(), (false, Some(StoreTime(end))));
            clock.0.store(end - 1, Ordering::Relaxed);
            assert_eq!(ask_all(), (false, Some(StoreTime(end))), "a microsecond before the end");
            clock.0.store(end, Ordering::Relaxed);
        }
        assert_eq!((store.len(), evicted.get()), (1, 0));
    }

    #[test]
    fn a_record_stays_for_as_long_as_its_hits_count() {
        let clock = Arc::new(ManualClock(AtomicU64::new(10_000_000)));
        let (store, _) = store(&clock, 10_000);
        let sliding = Grid::Sliding { width_ms: SHORT_MS };
        assert_eq!(granted(ask(&store, "a", sliding, 100, 100)), (true, None));
        // Every charge of another counter looks for records that have expired.
        let sweep = |name: &str| (0..2 * MAPS).for_each(|at| drop(charge(&store, &format!("{name}{at}"), LONG_MS)));
        clock.0.store(11_500_000, Ordering::Relaxed);
        sweep("b");
        assert!(!granted(ask(&store, "a", sliding, 100, 51)).0, "half of the last window counts");
        clock.0.store(11_999_000, Ordering::Relaxed);
        sweep("c");
        assert!(!granted(ask(&store, "a", sliding, 100, 100)).0, "a part of the last window counts");
        clock.0.store(12_000_000, Ordering::Relaxed);
        assert_eq!(granted(ask(&store, "a", sliding, 100, 100)), (true, None));
    }

    #[test]
    fn records_that_have_expired_are_removed_and_those_in_use_stay() {
        let clock = Arc::new(ManualClock(AtomicU64::new(1_000_000)));
        let (store, evicted) = store(&clock, 3);
        for key in ["a", "b", "c", "a"] {
            assert!(matches!(charge(&store, key, SHORT_MS), ItemReply::Done(_)));
        }
        clock.0.store(2_000_001, Ordering::Relaxed);
        for _ in 0..MAPS {
            charge(&store, "a", SHORT_MS);
        }
        assert_eq!((store.len(), evicted.get()), (1, 0));
    }

    #[test]
    fn a_full_store_serves_new_keys_in_place_of_those_that_expire_soonest() {
        let clock = Arc::new(ManualClock(AtomicU64::new(1_000_000)));
        let (store, evicted) = store(&clock, 1000);
        let charge_all = |name: &str, count, width_ms| {
            for at in 0..count {
                assert!(matches!(charge(&store, &format!("{name}{at}"), width_ms), ItemReply::Done(_)), "{name}{at}");
            }
        };
        charge_all("long", 500, LONG_MS);
        charge_all("short", 500, SHORT_MS);
        charge_all("new", 100, LONG_MS);
        assert_eq!((store.len(), evicted.get()), (1000, 100));
        let state = store.state.lock().unwrap();
        let keys = state.maps.iter().flat_map(IndexMap::keys);
        let long_left = keys.filter(|key| !key.starts_with(b"short")).count();
        // A sample without a short record is rarer than one in a thousand.
        assert!(long_left >= 590, "{long_left} of 600 long records are left");
    }
}
