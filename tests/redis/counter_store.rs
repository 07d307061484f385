//! Runs the contract tests on every counter store.

use std::sync::Arc;

use tidegate::host::clock::SystemClock;
use tidegate::store::memory::MemoryStore;

use crate::servers::{Cluster, Sentinels, SingleServer, open_store, redis_region};

#[tokio::test]
async fn the_memory_store_keeps_the_contract() {
    let store = MemoryStore::new(Arc::new(SystemClock::new()), 1000);
    crate::contract::ContractSuite::new(&store, "").run().await;
}

#[tokio::test]
async fn a_single_redis_keeps_the_contract() {
    let redis = SingleServer::start(&[]);
    let store = open_store(redis_region(&redis.url(), |_| ())).await;
    crate::contract::ContractSuite::new(&*store, "").run().await;
}

#[tokio::test]
async fn a_redis_behind_sentinels_keeps_the_contract() {
    let redis = Sentinels::start();
    let store = open_store(redis_region(&redis.url(), |_| ())).await;
    crate::contract::ContractSuite::new(&*store, "").run().await;
}

#[tokio::test]
async fn a_cluster_keeps_the_contract() {
    let redis = Cluster::start_with_slow_failover();
    let store = open_store(redis_region(&redis.url(), |_| ())).await;
    crate::contract::ContractSuite::new(&*store, "").run().await;
}
