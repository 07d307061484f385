//! The contract of counter stores, kept by each of them.

mod contract;

use std::sync::Arc;

use tidegate::node::clock::SystemClock;
use tidegate::store::memory::MemoryStore;

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    let store = MemoryStore::new(Arc::new(SystemClock::new()), 1000);
    contract::Suite::new(&store, "").run().await;
}
