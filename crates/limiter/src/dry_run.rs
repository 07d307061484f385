//! A dry run of rules: one shard on a store of its own, at instants that the caller chooses.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::check::Check;
use crate::counter::{LaneEpoch, Record, apply, run};
use crate::decision::Decision;
use crate::ids::LaneId;
use crate::rules::RuleBook;
use crate::shard::{Effects, Event, Overload, Reply, Shard, ShardConfig, Verdict};
use crate::time::{NodeTime, StoreTime, WallTime};

const CONFIG: ShardConfig = ShardConfig {
    max_keys: 100_000,
    max_waiting: 1000,
    lease_us: 1_000_000,
    deadline_us: 100_000,
    holders: 1,
    min_holders: 1,
    lanes: 1,
    max_items: 1000,
    hash_keys: false,
    seeds: [1, 2, 3, 4],
};

/// The most rounds of batches that one event may need: a check asks, and gives back.
const MAX_ROUNDS: usize = 100;

/// A shard and its store.
#[derive(Debug)]
pub struct DryRun {
    shard: Shard<()>,
    store: BTreeMap<Box<[u8]>, Option<Record>>,
    lane: Option<LaneEpoch>,
    begin: StoreTime,
}

impl DryRun {
    /// All counters are empty at `begin`.
    pub fn new(book: Arc<RuleBook>, begin: StoreTime) -> Self {
        let shard = Shard::new(CONFIG, WallTime(begin.0), NodeTime(0));
        let mut dry_run = Self { shard, store: BTreeMap::new(), lane: None, begin };
        dry_run.handle(Event::Rules(book), NodeTime(0));
        dry_run
    }

    /// Decides a check `after` microseconds since the beginning. Instants must not go back.
    ///
    /// # Errors
    /// When the checks need more keys than a dry run holds.
    pub fn check(&mut self, check: &Check<'_>, after: u64) -> Result<Decision, Overload> {
        let now = NodeTime(after);
        self.handle(Event::Tick, now);
        let ticket = match self.shard.check(check, |_| LaneId(0), now, || ()) {
            Verdict::Decided(decision) => return Ok(decision),
            Verdict::Overloaded(overload) => return Err(overload),
            Verdict::Waits { ticket, .. } => ticket,
        };
        let decided = self.handle(Event::Flush, now).or_else(|| self.handle(Event::Expire(ticket), now));
        decided.ok_or(Overload::TooManyWaiting)
    }

    /// Handles an event and all that follows from it. Returns the decision of the check that waited.
    fn handle(&mut self, event: Event, now: NodeTime) -> Option<Decision> {
        let (mut decided, mut events) = (None, vec![event]);
        for _ in 0..MAX_ROUNDS {
            let Some(event) = events.pop() else { break };
            let Effects { send, decided: decisions, flush, .. } = self.shard.handle(event, now);
            decided = decided.or_else(|| decisions.into_iter().next().map(|((), decision)| decision));
            if flush {
                events.push(Event::Flush);
            }
            for out in send {
                let store_now = StoreTime(self.begin.0.saturating_add(now.0));
                let reply = run(&out.batch, store_now, 1, &mut self.lane, |item, cx| {
                    apply(self.store.entry(item.key.clone()).or_default(), item, cx)
                });
                events.push(Event::Reply(Reply { lane: out.lane, batch: out.batch.id, result: Ok(reply) }));
            }
        }
        decided
    }
}
