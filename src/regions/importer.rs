//! Writes what other regions counted into the counters of this one.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use limiter::counter::{Batch, BatchOutcome, Counter, Given, Grid, Item, ItemReply, Take};
use limiter::gossip::{Inbox, Report};
use limiter::{BatchId, HolderId, LaneId, MAX_ITEMS, RegionNumber};
use tokio::sync::{mpsc, oneshot};

use super::metrics::RegionsMetrics;
use crate::ports::CounterStore;

/// Names that are tried for the probe of each lane, times the lanes.
const PROBE_NAMES: usize = 64;

/// A message of another region that waits to be imported.
pub struct Import {
    pub region: RegionNumber,
    /// The node that sent it.
    pub sender: String,
    pub reports: Vec<Report>,
    /// Gets what to acknowledge.
    pub done: oneshot::Sender<Imported>,
}

/// What is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Imported {
    /// The sender must tell everything again.
    pub forgot: bool,
    /// The positions of reports that could not be stored.
    pub failed: Vec<u32>,
    /// The store answered nothing.
    pub nothing: bool,
}

/// Imports the messages of other regions, one after another.
pub struct Importer {
    store: Arc<dyn CounterStore>,
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
        seed: u64,
        waiting: mpsc::Receiver<Import>,
        metrics: RegionsMetrics,
    ) -> Self {
        let probes = probes(&*store);
        let holder = HolderId(seed >> 16);
        Self { store, holder, last_batch: BatchId(0), inbox: Inbox::new(), waiting, probes, metrics }
    }

    /// Imports what comes, without end.
    pub async fn run(&mut self) {
        while let Some(import) = self.waiting.recv().await {
            let Import { region, sender, reports, done } = import;
            // A sender that waits no more tells it again.
            if done.is_closed() {
                continue;
            }
            let imported = self.import(region, &sender, reports).await;
            if let Err(Imported { forgot: true, .. }) = done.send(imported) {
                self.inbox.ask_again(&sender);
            }
        }
    }

    async fn import(&mut self, region: RegionNumber, sender: &str, reports: Vec<Report>) -> Imported {
        let mut lanes: BTreeMap<LaneId, Vec<(Option<u32>, Item)>> = BTreeMap::new();
        if reports.is_empty() {
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
        let mut running = FuturesUnordered::new();
        for (lane, items) in lanes {
            let mut items = items.into_iter().peekable();
            while items.peek().is_some() {
                let (positions, items): (Vec<_>, Vec<_>) = items.by_ref().take(MAX_ITEMS).unzip();
                self.last_batch.0 += 1;
                let batch = Batch { not_after: None, holder: self.holder, id: self.last_batch, items };
                let run = self.store.run(lane, batch);
                running.push(async move { (lane, positions, run.await) });
            }
        }
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
        Imported { forgot: self.inbox.must_ask(sender), nothing: asked > 0 && answered == 0, failed }
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
    use limiter::counter::{BatchReply, SeenCells, StoreError};

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

    fn report(width_ms: u64) -> Report {
        Report { key: b"k".as_slice().into(), grid: Grid::Fixed { width_ms }, cells: SeenCells::Empty }
    }

    #[tokio::test]
    async fn a_silent_store_acknowledges_nothing_and_invalid_reports_are_not_told_again() {
        let metrics = RegionsMetrics::new(&MetricsRegistry::new("1", "abc").unwrap()).unwrap();
        let mut importer = Importer::new(Arc::new(SilentStore), 1, mpsc::channel(1).1, metrics);
        let mut import = async |reports| {
            let Imported { failed, nothing, .. } = importer.import(RegionNumber(7), "eu-1", reports).await;
            (nothing, failed)
        };
        assert_eq!(import(Vec::new()).await, (true, vec![]));
        assert_eq!(import(vec![report(0), report(1000)]).await, (true, vec![1]));
        assert_eq!(import(vec![report(0)]).await, (false, vec![]), "nobody was asked");
    }
}
