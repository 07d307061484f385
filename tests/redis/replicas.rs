//! Whether a replica has what a batch wrote: rights of limits under `escrow` move only then.

use limiter::counter::{Batch, BatchOutcome, Counter, Escrow, Give, Given, Grid, Item, ItemReply, StoreError};
use limiter::{BatchId, HolderId, RegionNumber};
use tidegate::ports::{CounterStore, Replicated};

use crate::servers::{Cluster, SingleServer, open_store, redis_cli, redis_region};

const OTHER: RegionNumber = RegionNumber(7);
const WIDTH_MS: u64 = 86_400_000;

/// Asks the store to give another region rights of today. The store is younger, so it gives none, and notes that it was
/// asked.
pub async fn give(store: &dyn CounterStore, number: u64) -> Result<(Given, Replicated), StoreError> {
    let empty = Batch { not_after: None, holder: HolderId(1), id: BatchId(number), items: Vec::new() };
    let lane = store.lane(b"k");
    let now_ms = store.run(lane, empty).await?.now.millis();
    let give =
        Give { to: OTHER, cell_ms: now_ms - now_ms % WIDTH_MS, wanted: 10, denied: false, received: 0, epoch_ms: 1 };
    let escrow = Escrow { part: 100, others: [OTHER].into_iter().collect() };
    let counter = Counter::Give { grid: Grid::Fixed { width_ms: WIDTH_MS }, escrow, give };
    let item = Item { key: b"k".as_slice().into(), asks: Vec::new(), refund: 0, counter };
    let batch = Batch { not_after: None, holder: HolderId(1), id: BatchId(number), items: vec![item] };
    let (reply, replicated) = store.run_durably(lane, batch).await?;
    let BatchOutcome::Ran(mut replies) = reply.outcome else { panic!("{reply:?}") };
    match replies.pop() {
        Some(ItemReply::Given(given)) => Ok((given, replicated)),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_primary_without_a_replica_says_so() {
    let redis = SingleServer::start(&[]);
    let store = open_store(redis_region(&redis.url(), |_| ())).await;
    let (given, replicated) = give(&*store, 1).await.unwrap();
    assert!(given.fenced);
    assert_eq!(replicated, Replicated::NoReplica);
}

#[tokio::test]
async fn a_batch_is_durable_once_a_replica_has_it_and_not_while_none_answers() {
    let cluster = Cluster::start_with_slow_failover();
    let change = |config: &mut tidegate::store::redis::RedisConfig| {
        config.deadline = std::time::Duration::from_secs(2);
    };
    let store = open_store(redis_region(&cluster.url(), change)).await;
    assert_eq!(give(&*store, 1).await.unwrap().1, Replicated::Yes);
    let replicas: Vec<u16> =
        cluster.ports().filter(|port| redis_cli(*port, &["info", "replication"]).contains("role:slave")).collect();
    replicas.iter().for_each(|port| cluster.signal(*port, "STOP"));
    assert_eq!(give(&*store, 2).await.unwrap().1, Replicated::NotYet);
    // A gift that gives nothing more is durable only once the earlier ones are.
    assert_eq!(give(&*store, 3).await.unwrap().1, Replicated::NotYet);
    replicas.iter().for_each(|port| cluster.signal(*port, "CONT"));
    assert_eq!(give(&*store, 4).await.unwrap().1, Replicated::Yes);
}
