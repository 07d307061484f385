//! The memory store: one per process, shared by its cores, for `dev` and for single nodes. A restart loses all
//! counters.

use std::sync::{Arc, Mutex, PoisonError};

use indexmap::IndexMap;
use tokio::sync::watch;

use crate::ports::{BoxFuture, Clock, CounterStore, Fatal, Region, RegionState, Service, Shutdown, StoreHealth};
use limiter::counter::{self, Batch, BatchContext, BatchReply, Item, ItemReply, LaneEpoch, Record, StoreError};
use limiter::{LaneId, StoreTime};

/// How many records are checked for expiry for each item of a batch.
const SWEEP_PER_ITEM: usize = 2;
/// The number of hash maps that the records are spread over. They grow one at a time, so no batch waits while all
/// records move.
const MAPS: usize = 256;

/// Counters in the memory of this process.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    /// The most records. A further key fails until other records expire.
    max_keys: usize,
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
}

struct Entry {
    /// `None` if the last item left nothing to remember.
    record: Option<Record>,
    expiry: StoreTime,
}

impl MemoryStore {
    /// Returns an empty store that holds at most `max_keys` records.
    pub fn new(clock: Arc<dyn Clock>, max_keys: usize) -> Self {
        Self { clock, max_keys, state: Mutex::new(State::new()) }
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
        let reply = counter::run(batch, now, 1, &mut lane, |item, cx| state.apply(item, cx, self.max_keys));
        state.lane = lane;
        state.sweep(SWEEP_PER_ITEM * batch.items.len(), now);
        reply
    }
}

impl State {
    fn new() -> Self {
        let maps = (0..MAPS).map(|_| IndexMap::new()).collect();
        Self { hasher: ahash::RandomState::new(), maps, len: 0, lane: None, sweep_position: (0, 0) }
    }

    #[expect(clippy::cast_possible_truncation, reason = "the remainder is below the number of maps")]
    fn apply(&mut self, item: &Item, cx: BatchContext, max_keys: usize) -> ItemReply {
        let map = (self.hasher.hash_one(&item.key) % MAPS as u64) as usize;
        let map = &mut self.maps[map];
        let Some(entry) = map.get_mut(&item.key) else {
            if self.len >= max_keys {
                return ItemReply::Failed;
            }
            let mut record = None;
            let reply = counter::apply(&mut record, item, cx);
            if let Some(record) = record {
                let expiry = counter::expires_at(&record, item);
                map.insert(item.key.clone(), Entry { record: Some(record), expiry });
                self.len += 1;
            }
            return reply;
        };
        let reply = counter::apply(&mut entry.record, item, cx);
        // The next sweep removes an empty entry.
        entry.expiry = entry.record.as_ref().map_or(StoreTime(0), |record| counter::expires_at(record, item));
        reply
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

    fn charge(store: &MemoryStore, key: &str) -> ItemReply {
        let grid = Grid::Fixed { width_ms: 1000 };
        let counter = Counter::Window {
            grid,
            limit: 5,
            seen: SeenCells::Empty,
            returns: Vec::new(),
            debts: Debts::default(),
            lease: None,
            share: None,
            escrow: None,
        };
        let asks = vec![Ask { hits: 1, count: 1, overdraft: false }];
        let item = Item { key: key.as_bytes().into(), asks, refund: 0, counter };
        match store.run_now(&Batch { not_after: None, holder: HolderId(1), id: BatchId(1), items: vec![item] }).outcome
        {
            BatchOutcome::Ran(mut replies) => replies.pop().unwrap(),
            BatchOutcome::Late => panic!("the batch has no deadline"),
        }
    }

    #[test]
    fn a_full_store_serves_known_keys_and_new_ones_after_others_expire() {
        let clock = Arc::new(ManualClock(AtomicU64::new(1_000_000)));
        let store = MemoryStore::new(Arc::<ManualClock>::clone(&clock), 3);
        for key in ["a", "b", "c", "a"] {
            assert!(matches!(charge(&store, key), ItemReply::Done(_)));
        }
        assert_eq!(charge(&store, "d"), ItemReply::Failed);
        clock.0.store(2_000_001, Ordering::Relaxed);
        for _ in 0..MAPS {
            charge(&store, "a");
        }
        assert_eq!(store.len(), 1, "expired records are removed, and the one in use stays");
        assert!(matches!(charge(&store, "d"), ItemReply::Done(_)));
    }
}
