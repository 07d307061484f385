//! Gives rights of limits under `strategy: escrow` to other regions that ask for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use limiter::counter::{Batch, BatchOutcome, Given, Item, ItemReply};
use limiter::escrow::{MAX_WANTS, RightsPlan, Want};
use limiter::{BatchId, HolderId, LaneId, MAX_ITEMS, RegionNumber};
use tokio::sync::Semaphore;

use super::metrics::RegionsMetrics;
use crate::ports::{CounterStore, Replicated};

/// Questions of other regions that are answered at once. Further ones are rejected.
const MAX_QUESTIONS: usize = 32;

/// Gives rights to other regions.
pub struct Giver {
    store: Arc<dyn CounterStore>,
    plan: Option<RightsPlan>,
    holder: HolderId,
    last_batch: AtomicU64,
    running: Semaphore,
    metrics: RegionsMetrics,
}

/// Too many questions are being answered.
#[derive(Debug)]
pub struct Busy;

impl Giver {
    /// `seed` must be random. Without a `plan` nobody gets anything.
    pub fn new(
        store: Arc<dyn CounterStore>,
        plan: Option<RightsPlan>,
        seed: u64,
        metrics: RegionsMetrics,
    ) -> Arc<Self> {
        let (holder, last_batch, running) = (HolderId(seed >> 16), AtomicU64::new(0), Semaphore::new(MAX_QUESTIONS));
        Arc::new(Self { store, plan, holder, last_batch, running, metrics })
    }

    /// Answers what a region wants, in order. `None` means that nothing is known: the store did not answer, or no replica
    /// has confirmed what it did.
    ///
    /// # Errors
    /// When too many questions are being answered.
    pub async fn answer(&self, region: RegionNumber, wants: Vec<Want>) -> Result<Vec<Option<Given>>, Busy> {
        let _running = self.running.try_acquire().map_err(|_| Busy)?;
        let mut answers = vec![None; wants.len()];
        let Some(plan) = self.plan.filter(|_| wants.len() <= MAX_WANTS) else { return Ok(answers) };
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
            self.metrics.rights.gave(replicated);
            let BatchOutcome::Ran(replies) = reply.outcome else { continue };
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
        Ok(answers)
    }
}
