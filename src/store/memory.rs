//! The memory store: one per process, shared by its cores. For `dev` and single nodes; it forgets at a restart.

use std::sync::{Arc, Mutex, PoisonError};

use indexmap::IndexMap;
use tokio::sync::watch;

use crate::ports::{BoxFuture, Clock, CounterStore, Fatal, Region, RegionState, Service, Shutdown};
use limiter::counter::{self, Batch, BatchContext, BatchReply, Item, ItemReply, Record, StoreError};
use limiter::{LaneId, StoreTime};

/// So many records are looked at per item that runs, whether they have expired.
const SWEEP: usize = 2;
/// Records are kept in so many parts, which grow one at a time: nobody waits while all of them move.
const PARTS: usize = 256;

/// Counters in this process.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    /// Records at most: a further key is not served until others expire.
    max_keys: usize,
    state: Mutex<State>,
}

struct State {
    hasher: ahash::RandomState,
    parts: Vec<IndexMap<Box<[u8]>, Kept>>,
    /// Records in all parts.
    len: usize,
    /// Where the sweep goes on: the part, and the place in it.
    hand: (usize, usize),
}

struct Kept {
    record: Option<Record>,
    expiry: StoreTime,
}

impl MemoryStore {
    /// An empty store that holds at most `max_keys` records.
    pub fn new(clock: Arc<dyn Clock>, max_keys: usize) -> Self {
        Self { clock, max_keys, state: Mutex::new(State::new()) }
    }

    /// Keys in the store.
    pub fn len(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).len
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn run_now(&self, batch: &Batch) -> BatchReply {
        let now = StoreTime(self.clock.wall().0);
        // A panic loses the record of its own item and no other.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = counter::run(batch, now, 1, |item, at| state.serve(item, at, self.max_keys));
        state.sweep(SWEEP * batch.items.len(), now);
        answer
    }
}

impl State {
    fn new() -> Self {
        let parts = (0..PARTS).map(|_| IndexMap::new()).collect();
        Self { hasher: ahash::RandomState::new(), parts, len: 0, hand: (0, 0) }
    }

    #[expect(clippy::cast_possible_truncation, reason = "it is below the number of parts")]
    fn serve(&mut self, item: &Item, at: BatchContext, max_keys: usize) -> ItemReply {
        let part = (self.hasher.hash_one(&item.key) % PARTS as u64) as usize;
        let records = &mut self.parts[part];
        let Some(kept) = records.get_mut(&item.key) else {
            if self.len >= max_keys {
                return ItemReply::Failed;
            }
            let mut record = None;
            let answer = counter::apply(&mut record, item, at);
            if let Some(record) = record {
                let expiry = counter::expires_at(&record, item);
                records.insert(item.key.clone(), Kept { record: Some(record), expiry });
                self.len += 1;
            }
            return answer;
        };
        let answer = counter::apply(&mut kept.record, item, at);
        // What is empty goes with the next sweep.
        kept.expiry = kept.record.as_ref().map_or(StoreTime(0), |record| counter::expires_at(record, item));
        answer
    }

    /// Looks at the next `count` records.
    fn sweep(&mut self, count: usize, now: StoreTime) {
        let (mut part, mut at) = self.hand;
        for _ in 0..count {
            let records = &mut self.parts[part];
            match records.get_index(at) {
                Some((_, kept)) if kept.expiry < now => {
                    records.swap_remove_index(at);
                    self.len -= 1;
                }
                Some(_) => at += 1,
                None => {
                    if records.is_empty() {
                        // Give the memory of a past crowd back.
                        *records = IndexMap::new();
                    }
                    (part, at) = ((part + 1) % PARTS, 0);
                }
            }
        }
        self.hand = (part, at);
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
        let answer = self.run_now(&batch);
        Box::pin(std::future::ready(Ok(answer)))
    }
}

/// A region of one process.
pub struct Alone {
    store: Arc<MemoryStore>,
    holders: watch::Sender<u32>,
}

impl Alone {
    /// `cores` share the store.
    pub fn new(store: Arc<MemoryStore>, cores: u32) -> Self {
        Self { store, holders: watch::Sender::new(cores) }
    }
}

impl Region for Alone {
    fn store(&self) -> Arc<dyn CounterStore> {
        Arc::clone(&self.store) as Arc<dyn CounterStore>
    }

    fn holders(&self) -> watch::Receiver<u32> {
        self.holders.subscribe()
    }

    fn state(&self) -> RegionState {
        // A store in this process is always there.
        RegionState { reached: true, store: "ok".to_owned(), advice: Vec::new() }
    }
}

impl Service for Alone {
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

    struct Hand(AtomicU64);

    impl Clock for Hand {
        fn now(&self) -> NodeTime {
            NodeTime(self.0.load(Ordering::Relaxed))
        }

        fn wall(&self) -> WallTime {
            WallTime(self.0.load(Ordering::Relaxed))
        }
    }

    fn ask(store: &MemoryStore, key: &str) -> ItemReply {
        let grid = Grid::Fixed { width_ms: 1000 };
        let counter = Counter::Window {
            grid,
            limit: 5,
            seen: SeenCells::None,
            returns: Vec::new(),
            debts: Debts::default(),
            lease: None,
        };
        let item = Item { key: key.as_bytes().into(), asks: vec![Ask { hits: 1, count: 1 }], counter };
        match store.run_now(&Batch { not_after: None, holder: HolderId(1), id: BatchId(1), items: vec![item] }).outcome
        {
            BatchOutcome::Ran(mut answers) => answers.pop().unwrap(),
            BatchOutcome::Late => panic!("it has no end"),
        }
    }

    #[test]
    fn a_full_store_serves_the_keys_it_has_and_others_when_those_expire() {
        let clock = Arc::new(Hand(AtomicU64::new(1_000_000)));
        let store = MemoryStore::new(Arc::<Hand>::clone(&clock), 3);
        for key in ["a", "b", "c", "a"] {
            assert!(matches!(ask(&store, key), ItemReply::Done(_)));
        }
        assert_eq!(ask(&store, "d"), ItemReply::Failed);
        clock.0.store(2_000_001, Ordering::Relaxed);
        for _ in 0..PARTS {
            ask(&store, "a");
        }
        assert_eq!(store.len(), 1, "what expired is swept away, what is used stays");
        assert!(matches!(ask(&store, "d"), ItemReply::Done(_)));
    }
}
