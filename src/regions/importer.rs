//! Writes what other regions counted into the counters of this one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt, stream};
use limiter::counter::{Batch, BatchOutcome, Counter, Given, Grid, Item, ItemReply, Take};
use limiter::gossip::{Inbox, Report};
use limiter::{BatchId, HolderId, LaneId, RegionNumber};
use tokio::sync::{mpsc, oneshot};

use super::metrics::RegionsMetrics;
use super::micros;
use crate::ports::{Clock, CounterStore};

/// The most reports of one script call, and the most calls at once. The region's own checks wait behind them: a primary
/// needs 4 to 30 µs for a report.
const MAX_ITEMS: usize = 50;
const MAX_IN_FLIGHT: usize = 4;
/// Names that are tried for the probe of each lane, times the lanes.
const PROBE_NAMES: usize = 64;

/// A message of another region that waits to be imported.
pub struct Import {
    pub region: RegionNumber,
    pub reports: Vec<Report>,
    /// Gets what to acknowledge.
    pub done: oneshot::Sender<Imported>,
}

/// What is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// Names what the node and the store remember ([`Inbox::memory`]).
    pub memory: u64,
    /// The positions of reports that could not be stored.
    pub failed: Vec<u32>,
    /// The store answered nothing.
    pub nothing: bool,
}

/// Imports the messages of other regions, one after another.
pub struct Importer {
    store: Arc<dyn CounterStore>,
    clock: Arc<dyn Clock>,
    holder: HolderId,
    last_batch: BatchId,
    inbox: Inbox,
    waiting: mpsc::Receiver<Import>,
    /// A key for each lane that no limit has. Its import shows whether the lane's primary was replaced.
    probes: Vec<Item>,
    metrics: RegionsMetrics,
}

impl Importer {
    pub fn new(
        store: Arc<dyn CounterStore>,
        clock: Arc<dyn Clock>,
        (seed, partition_after): (u64, Duration),
        waiting: mpsc::Receiver<Import>,
        metrics: RegionsMetrics,
    ) -> Self {
        let probes = probes(&*store);
        let holder = HolderId(seed >> 16);
        let inbox = Inbox::new(seed.rotate_left(32), micros(partition_after));
        Self { store, clock, holder, last_batch: BatchId(0), inbox, waiting, probes, metrics }
    }

    /// Imports what comes, without end.
    pub async fn run(&mut self) {
        while let Some(import) = self.waiting.recv().await {
            let Import { region, reports, done } = import;
            // A sender that waits no more tells it again.
            if done.is_closed() {
                continue;
            }
            // A sender that has gone tells it again.
            let _ = done.send(self.import(region, reports).await);
        }
    }

    async fn import(&mut self, region: RegionNumber, reports: Vec<Report>) -> Imported {
        let mut lanes: BTreeMap<LaneId, Vec<(Option<u32>, Item)>> = BTreeMap::new();
        if self.inbox.looks_at_lanes(reports.is_empty(), self.clock.now()) {
            for item in &self.probes {
                lanes.entry(self.store.lane(&item.key)).or_default().push((None, item.clone()));
            }
        }
        for (position, report) in (0..).zip(reports) {
            // What no sound node sends is left out, and counted.
            if let Some(item) = self.inbox.import(region, report) {
                lanes.entry(self.store.lane(&item.key)).or_default().push((Some(position), item));
            }
        }
        self.metrics.rejected(self.inbox.rejected());
        let asked: usize = lanes.values().map(Vec::len).sum();
        let mut batches = Vec::new();
        for (lane, items) in lanes {
            let mut items = items.into_iter().peekable();
            while items.peek().is_some() {
                let (positions, items): (Vec<_>, Vec<_>) = items.by_ref().take(MAX_ITEMS).unzip();
                self.last_batch.0 += 1;
                batches.push((
                    lane,
                    positions,
                    Batch { not_after: None, holder: self.holder, id: self.last_batch, items },
                ));
            }
        }
        let store = &self.store;
        let mut running = stream::iter(batches)
            .map(|(lane, positions, batch)| async move { (lane, positions, store.run(lane, batch).await) })
            .buffer_unordered(MAX_IN_FLIGHT);
        let (mut failed, mut answered, mut imported) = (Vec::new(), 0, 0);
        while let Some((lane, positions, ran)) = running.next().await {
            let replies = match ran.map(|reply| reply.outcome) {
                Ok(BatchOutcome::Ran(replies)) => replies,
                Ok(BatchOutcome::Late) | Err(_) => Vec::new(),
            };
            self.inbox.imported(lane, &replies);
            let mut replies = replies.into_iter();
            for position in positions {
                match replies.next() {
                    Some(ItemReply::Failed) | None => failed.extend(position),
                    Some(_) => {
                        answered += 1;
                        imported += usize::from(position.is_some());
                    }
                }
            }
        }
        self.metrics.imported(imported);
        failed.sort_unstable();
        Imported { memory: self.inbox.memory(), nothing: asked > 0 && answered == 0, failed }
    }
}

/// An item for each lane that changes no counter. It leaves the record of the lane that rights need.
pub fn probes(store: &dyn CounterStore) -> Vec<Item> {
    let mut probes: BTreeMap<LaneId, Item> = BTreeMap::new();
    let lanes = usize::from(store.lanes());
    for number in 0..lanes * PROBE_NAMES {
        if probes.len() == lanes {
            break;
        }
        let key = format!("tidegate probe {number}").into_bytes();
        let take = Take { from: RegionNumber::OWN, cell_ms: 0, given: Given::default(), asked_ms: 0 };
        let counter = Counter::Take { grid: Grid::Fixed { width_ms: 1000 }, take };
        let item = |key: Vec<u8>| Item { key: key.into(), asks: Vec::new(), refund: 0, counter };
        probes.entry(store.lane(&key)).or_insert_with(|| item(key));
    }
    probes.into_values().collect()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use limiter::counter::{BatchReply, SeenCells, StoreError};
    use limiter::{NodeTime, WallTime};

    use super::*;
    use crate::ports::BoxFuture;
    use crate::telemetry::registry::MetricsRegistry;

    struct SilentStore;

    impl CounterStore for SilentStore {
        fn lanes(&self) -> u16 {
            1
        }

        fn lane(&self, _: &[u8]) -> LaneId {
            LaneId(0)
        }

        fn run(&self, _: LaneId, _: Batch) -> BoxFuture<'_, Result<BatchReply, StoreError>> {
            Box::pin(std::future::ready(Err(StoreError::NotApplied)))
        }
    }

    struct StoppedClock;

    impl Clock for StoppedClock {
        fn now(&self) -> NodeTime {
            NodeTime(0)
        }

        fn wall(&self) -> WallTime {
            WallTime(0)
        }
    }

    fn importer(store: Arc<dyn CounterStore>) -> Importer {
        let metrics = RegionsMetrics::new(&MetricsRegistry::new("1", "abc").unwrap()).unwrap();
        Importer::new(store, Arc::new(StoppedClock), (1, Duration::from_secs(2)), mpsc::channel(1).1, metrics)
    }

    fn report(width_ms: u64) -> Report {
        Report { key: b"k".as_slice().into(), grid: Grid::Fixed { width_ms }, cells: SeenCells::Empty }
    }

    #[tokio::test]
    async fn a_silent_store_acknowledges_nothing_and_invalid_reports_are_not_told_again() {
        let mut importer = importer(Arc::new(SilentStore));
        let mut import = async |reports| {
            let Imported { failed, nothing, .. } = importer.import(RegionNumber(7), reports).await;
            (nothing, failed)
        };
        assert_eq!(import(Vec::new()).await, (true, vec![]));
        assert_eq!(import(vec![report(0), report(1000)]).await, (true, vec![1]));
        assert_eq!(import(vec![report(0)]).await, (false, vec![]), "nobody was asked");
    }

    /// Counts the items of the calls that run at once, and the most of them so far.
    #[derive(Default)]
    struct BusyStore {
        running: AtomicUsize,
        most: AtomicUsize,
    }

    impl CounterStore for BusyStore {
        fn lanes(&self) -> u16 {
            8
        }

        fn lane(&self, key: &[u8]) -> LaneId {
            LaneId(u16::from(key[0] % 8))
        }

        fn run(&self, _: LaneId, batch: Batch) -> BoxFuture<'_, Result<BatchReply, StoreError>> {
            Box::pin(async move {
                let items = batch.items.len();
                self.most.fetch_max(items + self.running.fetch_add(items, Ordering::Relaxed), Ordering::Relaxed);
                tokio::task::yield_now().await;
                self.running.fetch_sub(items, Ordering::Relaxed);
                Err(StoreError::NotApplied)
            })
        }
    }

    #[tokio::test]
    async fn a_large_message_does_not_keep_the_store_from_the_checks() {
        let store = Arc::new(BusyStore::default());
        let mut importer = importer(Arc::clone(&store) as Arc<dyn CounterStore>);
        let key = |number: u16| format!("{}/{number}", number % 8).into_bytes().into();
        let reports = (0..5000).map(|number| Report { key: key(number), ..report(1000) }).collect();
        let imported = importer.import(RegionNumber(7), reports).await;
        assert_eq!(imported.failed.len(), 5000, "every report was in a call");
        let most = store.most.load(Ordering::Relaxed);
        assert!((MAX_ITEMS..=MAX_ITEMS * MAX_IN_FLIGHT).contains(&most), "{most} reports at once");
    }
}
