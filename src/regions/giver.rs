//! Gives rights of limits under `strategy: escrow` to other regions that ask for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use limiter::counter::{Batch, BatchOutcome, Given, Item, ItemReply};
use limiter::escrow::{RightsPlan, Want};
use limiter::{BatchId, HolderId, LaneId, MAX_ITEMS, RegionNumber};
use tokio::sync::{mpsc, oneshot};

use super::metrics::RegionsMetrics;
use crate::ports::{CounterStore, Replicated};

/// Questions of other regions that wait to be answered. Further ones are rejected.
pub const MAX_QUESTIONS: usize = 64;
/// Questions that are answered at once.
const MAX_RUNNING: usize = 16;

/// A question of another region.
pub struct Questioned {
    pub region: RegionNumber,
    pub wants: Vec<Want>,
    /// Gets an answer for each want, in order. `None` means that nothing is known: the store did not answer, or no
    /// replica has confirmed what it did.
    pub done: oneshot::Sender<Vec<Option<Given>>>,
}

/// Gives rights to other regions.
pub struct Giver {
    store: Arc<dyn CounterStore>,
    plan: Option<RightsPlan>,
    holder: HolderId,
    last_batch: AtomicU64,
    metrics: RegionsMetrics,
}

impl Giver {
    /// `seed` must be random. Without a `plan` nobody gets anything.
    pub fn new(store: Arc<dyn CounterStore>, plan: Option<RightsPlan>, seed: u64, metrics: RegionsMetrics) -> Self {
        Self { store, plan, holder: HolderId(seed >> 16), last_batch: AtomicU64::new(0), metrics }
    }

    /// Answers the questions that come, until nobody can ask any more.
    pub async fn run(&self, questions: &mut mpsc::Receiver<Questioned>) {
        let mut running = FuturesUnordered::new();
        loop {
            tokio::select! {
                Some(question) = questions.recv(), if running.len() < MAX_RUNNING => running.push(self.serve(question)),
                Some(()) = running.next() => {}
                else => return,
            }
        }
    }

    async fn serve(&self, question: Questioned) {
        let Questioned { region, wants, done } = question;
        // Whoever waits no more asks again.
        if !done.is_closed() {
            let _ = done.send(self.answer(region, wants).await);
        }
    }

    async fn answer(&self, region: RegionNumber, wants: Vec<Want>) -> Vec<Option<Given>> {
        let mut answers = vec![None; wants.len()];
        // A region without a name in the plan would not be asked what it got.
        let knows = |plan: &RightsPlan| plan.others().any(|other| other == region);
        let Some(plan) = self.plan.filter(knows) else { return answers };
        let mut lanes: BTreeMap<LaneId, Vec<(usize, Item)>> = BTreeMap::new();
        for (position, want) in wants.into_iter().enumerate() {
            let escrow = plan.escrow(want.limit);
            match want.give(region, escrow) {
                Ok(item) => lanes.entry(self.store.lane(&item.key)).or_default().push((position, item)),
                Err(_) => self.metrics.rights.dropped(1),
            }
        }
        let mut running = FuturesUnordered::new();
        for (lane, items) in lanes {
            let mut items = items.into_iter().peekable();
            while items.peek().is_some() {
                let (positions, items): (Vec<_>, Vec<_>) = items.by_ref().take(MAX_ITEMS).unzip();
                let id = BatchId(self.last_batch.fetch_add(1, Ordering::Relaxed) + 1);
                let batch = Batch { not_after: None, holder: self.holder, id, items };
                let run = self.store.run_durably(lane, batch);
                running.push(async move { (positions, run.await) });
            }
        }
        while let Some((positions, ran)) = running.next().await {
            let Ok((reply, replicated)) = ran else { continue };
            let BatchOutcome::Ran(replies) = reply.outcome else { continue };
            let gave = replies.iter().any(|reply| matches!(reply, ItemReply::Given(given) if given.given > 0));
            self.metrics.rights.gave(replicated, gave);
            // Another region must not spend what this one would still have after a failover.
            if replicated == Replicated::NotYet {
                continue;
            }
            for (position, reply) in positions.into_iter().zip(replies) {
                if let ItemReply::Given(given) = reply {
                    answers[position] = Some(given);
                }
            }
        }
        answers
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use limiter::StoreTime;
    use limiter::counter::{BatchReply, Grid, StoreError};
    use limiter::escrow::Weight;

    use super::*;
    use crate::ports::BoxFuture;
    use crate::telemetry::registry::MetricsRegistry;

    /// A store that gives 5 rights each time, or does not answer.
    struct Store(Mutex<Option<Replicated>>);

    impl CounterStore for Store {
        fn lanes(&self) -> u16 {
            1
        }

        fn lane(&self, _: &[u8]) -> LaneId {
            LaneId(0)
        }

        fn run(&self, _: LaneId, batch: Batch) -> BoxFuture<'_, Result<BatchReply, StoreError>> {
            let given = |_: &Item| ItemReply::Given(Given { given: 5, ..Given::default() });
            let outcome = BatchOutcome::Ran(batch.items.iter().map(given).collect());
            Box::pin(std::future::ready(Ok(BatchReply { now: StoreTime(0), outcome })))
        }

        fn run_durably(
            &self,
            lane: LaneId,
            batch: Batch,
        ) -> BoxFuture<'_, Result<(BatchReply, Replicated), StoreError>> {
            let replicated = self.0.lock().unwrap().ok_or(StoreError::NotApplied);
            let run = self.run(lane, batch);
            Box::pin(async move { Ok((run.await?, replicated?)) })
        }
    }

    fn want(width_ms: u64) -> Want {
        let grid = Grid::Fixed { width_ms };
        Want {
            key: b"k".as_slice().into(),
            grid,
            limit: 10,
            cell_ms: 0,
            hits: 5,
            denied: false,
            received: 0,
            epoch_ms: 0,
        }
    }

    async fn given(replicated: Option<Replicated>, from: &str, has_plan: bool) -> Vec<Option<u64>> {
        let metrics = RegionsMetrics::new(&MetricsRegistry::new("1", "abc").unwrap()).unwrap();
        let weights = ["eu", "us"].map(|region| (region.to_owned(), Weight { now: 1, next: 1 }));
        let plan = RightsPlan::new("us", &weights.into_iter().collect()).filter(|_| has_plan);
        let giver = Giver::new(Arc::new(Store(Mutex::new(replicated))), plan, 1, metrics);
        let answers = giver.answer(RegionNumber::of(from), vec![want(0), want(1000)]).await;
        answers.into_iter().map(|given| Some(given?.given)).collect()
    }

    #[tokio::test]
    async fn another_region_hears_of_rights_only_once_a_replica_has_them_or_if_there_is_none() {
        assert_eq!(given(Some(Replicated::Yes), "eu", true).await, [None, Some(5)], "the first want is not valid");
        assert_eq!(given(Some(Replicated::NoReplica), "eu", true).await, [None, Some(5)]);
        assert_eq!(given(Some(Replicated::NotYet), "eu", true).await, [None, None]);
        assert_eq!(given(None, "eu", true).await, [None, None], "the store does not answer");
        assert_eq!(given(Some(Replicated::Yes), "ap", true).await, [None, None], "the plan does not have it");
        assert_eq!(given(Some(Replicated::Yes), "eu", false).await, [None, None], "nobody knows who has which rights");
    }
}
