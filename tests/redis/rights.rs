//! Rights of limits under `escrow` in a real Redis Cluster.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use limiter::counter::{
    Ask, Batch, BatchOutcome, Counter, Debts, Escrow, Given, Grid, Item, ItemReply, SeenCells, Spending, Take,
};
use limiter::{BatchId, HolderId, RegionNumber};
use tidegate::ports::CounterStore;

use crate::servers::{Cluster, move_slots_to_a_fourth_primary, open_store, redis_region};
use crate::support::wait::TIMEOUT;

const OTHER: RegionNumber = RegionNumber(7);
const GRID: Grid = Grid::Fixed { width_ms: 1000 };
const KEYS: usize = 64;

/// Runs one item on the counter `key`.
async fn run(store: &dyn CounterStore, key: usize, counter: Counter, hits: u64) -> Option<ItemReply> {
    let key: Box<[u8]> = format!("user {key}").into_bytes().into();
    let lane = store.lane(&key);
    let asks = (hits > 0).then_some(Ask { hits, count: 1, overdraft: false }).into_iter().collect();
    let items = vec![Item { key, asks, refund: 0, counter }];
    let batch = Batch { not_after: None, holder: HolderId(1), id: BatchId(1), items };
    match store.run(lane, batch).await.ok()?.outcome {
        BatchOutcome::Ran(mut replies) => replies.pop(),
        BatchOutcome::Late => None,
    }
}

/// Spends a right of a counter. Returns what the store says of its rights; `None` if it did not answer.
async fn spend(store: &dyn CounterStore, key: usize) -> Option<Spending> {
    let counter = Counter::Window {
        grid: GRID,
        limit: 1_000_000,
        seen: SeenCells::Empty,
        returns: Vec::new(),
        debts: Debts::default(),
        lease: None,
        share: None,
        escrow: Some(Escrow { part: 500_000, others: [OTHER].into_iter().collect() }),
    };
    match run(store, key, counter, 1).await? {
        ItemReply::Done(grant) => grant.spending,
        _ => None,
    }
}

/// The record of a lane says since when there is data. It moves with the slot of its counters, so that a primary that
/// gets a slot does not take itself for one that has lost everything.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_can_be_spent_while_slots_move() {
    let cluster = Cluster::start_with_slow_failover();
    let store = open_store(redis_region(&cluster.url(), |_| ())).await;
    for key in 0..KEYS {
        let take = Take { from: OTHER, cell_ms: 0, given: Given::default(), asked_ms: 0 };
        run(&*store, key, Counter::Take { grid: GRID, take }, 0).await.unwrap();
    }
    // A window begins after the records of all lanes.
    let all_spend = async {
        for key in 0..KEYS {
            while spend(&*store, key).await != Some(Spending::Allowed) {}
        }
    };
    tokio::time::timeout(TIMEOUT, all_spend).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let (port, finished) = (cluster.port, Arc::clone(&done));
    let moving = tokio::task::spawn_blocking(move || {
        let moved = move_slots_to_a_fourth_primary(port);
        finished.store(true, Ordering::Relaxed);
        moved
    });
    let (mut answered, mut lost) = (0, 0);
    while !done.load(Ordering::Relaxed) {
        for key in 0..KEYS {
            let spending = spend(&*store, key).await;
            answered += u64::from(spending.is_some());
            lost += u64::from(spending == Some(Spending::Lost));
        }
    }
    let _fourth = moving.await.unwrap();
    println!("{answered} answers while slots moved, {lost} of a lost store");
    assert!(answered > 1000);
    assert_eq!(lost, 0);
}
