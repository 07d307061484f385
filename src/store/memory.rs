//! The memory store: one per process, shared by its cores. For `dev` and single nodes; it forgets at a restart.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::limiter::batch::{Batch, BatchAnswer, ItemAnswer, StoreError};
use crate::limiter::counter::{self, Record};
use crate::limiter::time::StoreTime;
use crate::ports::{BoxFuture, Clock, CounterStore};

/// Expired records are looked for in so many keys per item that runs.
const SWEEP: usize = 2;

/// Counters in this process.
pub struct MemoryStore {
    clock: Arc<dyn Clock>,
    /// Records at most: a further key is not served until others expire.
    max_keys: usize,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    records: HashMap<Box<[u8]>, (Record, StoreTime)>,
    /// Keys still to be looked at in this round of the sweep.
    round: Vec<Box<[u8]>>,
}

impl MemoryStore {
    /// An empty store that holds at most `max_keys` records.
    pub fn new(clock: Arc<dyn Clock>, max_keys: usize) -> Self {
        Self { clock, max_keys, state: Mutex::default() }
    }

    /// Keys in the store.
    pub fn len(&self) -> usize {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).records.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn run_now(&self, batch: &Batch) -> BatchAnswer {
        let now = self.clock.wall();
        // What a panic left behind is whole: a record is put back only when its item is done.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = counter::run(batch, now, 1, |item, at| {
            let stored = state.records.remove(&item.key);
            if stored.is_none() && state.records.len() >= self.max_keys {
                return ItemAnswer::Failed;
            }
            let mut record = stored.map(|(record, _)| record);
            let answer = counter::apply(&mut record, item, at);
            if let Some(record) = record {
                let expiry = counter::expires_at(&record, item);
                state.records.insert(item.key.clone(), (record, expiry));
            }
            answer
        });
        state.sweep(SWEEP * batch.items.len(), now);
        answer
    }
}

impl State {
    fn sweep(&mut self, count: usize, now: StoreTime) {
        if self.round.is_empty() {
            self.round.extend(self.records.keys().cloned());
        }
        for _ in 0..count {
            let Some(key) = self.round.pop() else { break };
            if self.records.get(&key).is_some_and(|(_, expiry)| *expiry < now) {
                self.records.remove(&key);
            }
        }
        if self.records.is_empty() {
            *self = Self::default();
        }
    }
}

impl CounterStore for MemoryStore {
    fn lanes(&self) -> u16 {
        1
    }

    fn lane(&self, _key: &[u8]) -> u16 {
        0
    }

    fn run(&self, _lane: u16, batch: Batch) -> BoxFuture<'_, Result<BatchAnswer, StoreError>> {
        let answer = self.run_now(&batch);
        Box::pin(std::future::ready(Ok(answer)))
    }
}
