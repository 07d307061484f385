//! A core with its flusher on the memory store: what a gateway sees of it.

mod world;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ractor::Actor;
use tidegate::actors::core::Core;
use tidegate::actors::flusher::Flusher;
use tidegate::limiter::batch::{Batch, BatchAnswer, StoreError};
use tidegate::limiter::decision::{Check, Decision, Descriptor};
use tidegate::limiter::rule::{Algorithm, Consistency};
use tidegate::limiter::shard::ShardConfig;
use tidegate::limiter::time::{NodeTime, StoreTime};
use tidegate::ports::{BoxFuture, Clock, CounterStore, Limiter, Refusal};
use tidegate::store::memory::MemoryStore;

struct Standing;

impl Clock for Standing {
    fn now(&self) -> NodeTime {
        NodeTime(1_000_000)
    }

    fn wall(&self) -> StoreTime {
        StoreTime(world::BEGIN)
    }
}

const CONFIG: ShardConfig = ShardConfig {
    max_keys: 100,
    max_waiting: 100,
    lease_us: 1_000_000,
    deadline_us: 5_000_000,
    holders: 2,
    min_holders: 3,
    lanes: 1,
    max_items: 100,
    seeds: [1, 2, 3, 4],
};

async fn core(store: Arc<dyn CounterStore>, limit: u64, consistency: Consistency) -> Arc<Core> {
    let core = Arc::new(Core::new(CONFIG, Arc::new(Standing), store));
    Actor::spawn(None, Flusher, Arc::clone(&core)).await.unwrap();
    let rule = world::limit("l", Algorithm::SlidingWindow, limit, 60_000, consistency);
    core.set_book(world::book(vec![rule], 1));
    core
}

async fn ask(core: &Core) -> Result<Decision, Refusal> {
    let descriptors = [Descriptor { entries: &[("user", "u1")], ordered: true, hits: 1, limit: None }];
    core.check(&Check { domain: "d", descriptors: &descriptors }, None).get().await
}

#[tokio::test]
async fn a_limit_of_five_admits_five_over_two_cores() {
    for consistency in [Consistency::Exact, Consistency::Leased] {
        let store: Arc<dyn CounterStore> = Arc::new(MemoryStore::new(Arc::new(Standing), 100));
        let cores = [core(Arc::clone(&store), 5, consistency).await, core(store, 5, consistency).await];
        let mut allowed = Vec::new();
        for at in 0..7 {
            allowed.push(ask(&cores[at % 2]).await.unwrap().allowed);
        }
        assert_eq!(allowed, [true, true, true, true, true, false, false], "{consistency:?}");
    }
}

/// A store that panics once, in the middle of routing a key.
struct Tripwire(MemoryStore, AtomicBool);

impl CounterStore for Tripwire {
    fn lanes(&self) -> u16 {
        1
    }

    fn lane(&self, _: &[u8]) -> u16 {
        assert!(!self.1.swap(false, Ordering::Relaxed), "planted");
        0
    }

    fn run(&self, lane: u16, batch: Batch) -> BoxFuture<'_, Result<BatchAnswer, StoreError>> {
        self.0.run(lane, batch)
    }
}

#[tokio::test]
async fn a_decision_that_panics_ends_its_shard_not_the_node_and_admits_nothing_more() {
    let store = Arc::new(Tripwire(MemoryStore::new(Arc::new(Standing), 100), AtomicBool::new(false)));
    let core = core(Arc::clone(&store) as Arc<dyn CounterStore>, 5, Consistency::Leased).await;
    for _ in 0..2 {
        assert!(ask(&core).await.unwrap().allowed);
    }
    store.1.store(true, Ordering::Relaxed);
    let descriptors = [Descriptor { entries: &[("user", "another")], ordered: true, hits: 1, limit: None }];
    let answer = core.check(&Check { domain: "d", descriptors: &descriptors }, None).get().await;
    assert_eq!(answer.unwrap_err(), Refusal::Restarted);
    let mut allowed = 2;
    for _ in 0..10 {
        allowed += u32::from(ask(&core).await.unwrap().allowed);
    }
    assert!((3..=5).contains(&allowed), "{allowed}");
}
