//! The contract of counter stores, kept by each of them.

use std::sync::Arc;

use tidegate::host::clock::SystemClock;
use tidegate::store::memory::MemoryStore;

use crate::servers::{Cluster, Sentinels, Single, open, region};

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    let store = MemoryStore::new(Arc::new(SystemClock::new()), 1000);
    crate::contract::Suite::new(&store, "").run().await;
}

#[tokio::test]
async fn one_redis_keeps_the_contract() {
    let redis = Single::start(&[]);
    let store = open(region(&redis.url(), |_| ())).await;
    crate::contract::Suite::new(&*store, "").run().await;
}

#[tokio::test]
async fn a_redis_that_sentinels_name_keeps_the_contract() {
    let redis = Sentinels::start();
    let store = open(region(&redis.url(), |_| ())).await;
    crate::contract::Suite::new(&*store, "").run().await;
}

#[tokio::test]
async fn a_cluster_keeps_the_contract() {
    let redis = Cluster::patient();
    let store = open(region(&redis.url(), |_| ())).await;
    crate::contract::Suite::new(&*store, "").run().await;
}
