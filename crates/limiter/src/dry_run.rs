//! A limiter on trial: one shard on a store of its own, at instants that the caller chooses. For trying rules out.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::counter::{Batch, BatchAnswer, Record, apply, run};
use crate::decision::{Check, Decision};
use crate::rules::RuleBook;
use crate::shard::{Shard, ShardConfig, Shed, Verdict};
use crate::time::{NodeTime, StoreTime};

const CONFIG: ShardConfig = ShardConfig {
    max_keys: 100_000,
    max_waiting: 1000,
    lease_us: 1_000_000,
    deadline_us: 100_000,
    holders: 1,
    min_holders: 1,
    lanes: 1,
    max_items: 1000,
    seeds: [1, 2, 3, 4],
};

/// Batches that one check may take before it is given up: it asks, and gives back.
const MAX_ROUNDS: usize = 100;

/// A shard and its store.
#[derive(Debug)]
pub struct Trial {
    shard: Shard,
    store: BTreeMap<Box<[u8]>, Option<Record>>,
    begin: StoreTime,
}

impl Trial {
    /// Counters are empty at `begin`.
    pub fn new(book: Arc<RuleBook>, begin: StoreTime) -> Self {
        let mut shard = Shard::new(CONFIG, begin, NodeTime(0));
        shard.set_book(book);
        Self { shard, store: BTreeMap::new(), begin }
    }

    /// Decides a check `after` microseconds; instants must not go back.
    ///
    /// # Errors
    /// When more keys are asked for than a trial holds.
    pub fn check(&mut self, check: &Check<'_>, after: u64) -> Result<Decision, Shed> {
        let now = NodeTime(after);
        self.shard.tick(now);
        self.run(now);
        let ticket = match self.shard.check(check, |_| 0, now) {
            Verdict::Decided(decision) => return Ok(decision),
            Verdict::Shed(shed) => return Err(shed),
            Verdict::Waits(ticket) => ticket,
        };
        self.run(now);
        let done = self.shard.take_done().into_iter().find(|(t, _)| *t == ticket).map(|(_, decision)| decision);
        done.or_else(|| self.shard.expire(ticket, now)).ok_or(Shed::TooManyWaiting)
    }

    fn run(&mut self, now: NodeTime) {
        for _ in 0..MAX_ROUNDS {
            let batches = self.shard.take_batches(now);
            if batches.is_empty() {
                break;
            }
            for out in batches {
                let answer = self.answer(&out.batch, now);
                self.shard.answer(out.lane, out.flight, Ok(answer), now);
            }
        }
    }

    fn answer(&mut self, batch: &Batch, now: NodeTime) -> BatchAnswer {
        let now = StoreTime(self.begin.0.saturating_add(now.0));
        run(batch, now, 1, |item, at| apply(self.store.entry(item.key.clone()).or_default(), item, at))
    }
}
