//! One core's shard: it hosts the virtual key actors and decides checks.
//!
//! [`Shard::check`] decides at once what the tokens of the keys cover. For everything else the shard is a state
//! machine: [`Shard::handle`] takes an event and returns what must be done. At most one batch is in flight per lane,
//! and the next one collects what comes meanwhile.

use std::sync::Arc;

use super::event::{Effects, Event, Overload, Reply, Verdict};
use super::keys::Keys;
use super::pending_check::PendingCheck;
use super::pending_checks::{PendingChecks, bytes_of};
use crate::check::Check;
use crate::ids::{BatchId, IdGenerator, LaneId, Ticket};
use crate::invariant::{self, Invariant};
use crate::key::{AskResult, Regions};
use crate::rules::{OnStoreFailure, RuleBook};
use crate::time::{NodeTime, WallTime};

/// The most items in one batch of a node: the store runs such a batch without delaying others for long.
pub const MAX_ITEMS: usize = 1000;

/// The settings of a shard.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// The most resident keys.
    pub max_keys: usize,
    /// The most checks that wait for the store. Each may take 4 KiB, and all together 1 KiB more for each of these: a
    /// check that would take more is decided without the store.
    pub max_waiting: usize,
    /// The longest time that tokens are held in advance, in microseconds.
    pub lease_us: u64,
    /// How long a batch may take, in microseconds.
    pub deadline_us: u64,
    /// Shards that may hold tokens of a key, until [`Event::Holders`] changes it.
    pub holders: u32,
    /// The smallest divisor of `on_store_failure: local`.
    pub min_holders: u32,
    /// Lanes of the store. Each has its own clock and at most one batch in flight.
    pub lanes: u16,
    /// The most items in one batch.
    pub max_items: usize,
    /// Values of checks stand in the names of counters only as a hash. Shards that count together must agree on it.
    pub hash_keys: bool,
    /// Random: they seed hashes and identifiers.
    pub seeds: [u64; 4],
}

/// The numbers that a node reports of a shard.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    pub keys: usize,
    /// Places in the queue of keys whose returns or debts a failing store did not take.
    pub stalled: usize,
    pub waiting: usize,
    /// Checks that were decided without the store, because those that waited took too much memory.
    pub without_room: u64,
    pub batches: u64,
    pub items: u64,
    pub failed_batches: u64,
    /// Items of batches that ran, whose key the store could not serve.
    pub failed_items: u64,
}

/// The shard of one core. `W` is what it keeps for the caller of a check that waits for the store.
#[derive(Debug)]
pub struct Shard<W> {
    book: Arc<RuleBook>,
    keys: Keys,
    pending: PendingChecks<W>,
    /// The flusher waits to send [`Event::FlushDelayOver`].
    delay_pending: bool,
    /// The name of the counter in hand, kept to spare allocations.
    name: Vec<u8>,
    /// The steps of all checks.
    work: usize,
    /// Checks for which [`PendingChecks`] had no room.
    without_room: u64,
}

impl<W> Shard<W> {
    /// An empty shard without rules. `wall` is the first estimate of the store's clock.
    pub fn new(config: ShardConfig, wall: WallTime, now: NodeTime) -> Self {
        let keys = Keys::new(config, IdGenerator::new(config.seeds[0]), BatchId(0), wall, now);
        Self::with(Arc::new(RuleBook::empty()), keys, Ticket(0))
    }

    fn with(book: Arc<RuleBook>, keys: Keys, first: Ticket) -> Self {
        let pending = PendingChecks::new(keys.config().seeds, first);
        Self { book, keys, pending, delay_pending: false, name: Vec::new(), work: 0, without_room: 0 }
    }

    /// Returns the shard that replaces this one after a panic. It has the same rules and no keys. The numbering of
    /// tickets and batches continues, so that it ignores late replies to the old shard.
    #[must_use]
    pub fn successor(&self, wall: WallTime, now: NodeTime) -> Self {
        Self::with(Arc::clone(&self.book), self.keys.successor(wall, now), self.pending.next_ticket())
    }

    /// The steps of all checks so far: see [`MAX_WORK`](crate::rules::MAX_WORK). The number may wrap around.
    pub const fn work(&self) -> usize {
        self.work
    }

    /// The rules in force.
    pub const fn book(&self) -> &Arc<RuleBook> {
        &self.book
    }

    /// Decides a check, or queues at the keys what it lacks. `lane_of` names the lane of a counter. `waiter` is called
    /// if the check waits, and what it returns comes back with the decision.
    ///
    /// After one or more checks, [`Self::needs_flush`] says whether the flusher must run.
    pub fn check(
        &mut self,
        asked: &Check<'_>,
        lane_of: impl Fn(&[u8]) -> LaneId,
        now: NodeTime,
        waiter: impl FnOnce() -> W,
    ) -> Verdict {
        let Self { book, keys, pending, name, work, without_room, .. } = self;
        let mut check = PendingCheck::new(book, asked, lane_of, keys, name);
        *work = work.wrapping_add(check.work);
        if check.table_full {
            check.unpin(keys);
            return Verdict::Overloaded(Overload::TooManyKeys);
        }
        if !check.reserve(pending.next_ticket(), keys, now) {
            check.unpin(keys);
            return Verdict::Decided(check.settle(keys, now));
        }
        let ticket = pending.take_ticket();
        if pending.len() >= keys.config().max_waiting {
            check.abandon(ticket, keys);
            check.refund(keys, now);
            return Verdict::Overloaded(Overload::TooManyWaiting);
        }
        check.bytes = bytes_of(asked, &check);
        if !pending.has_room_for(&check, keys.config().max_waiting) {
            // Clients choose how long attributes are. A gateway may let a request pass whose check is an error, and a
            // limit with `on_store_failure: allow` must not allow for what a client chose.
            *without_room += 1;
            check.abandon(ticket, keys);
            check.expire(true);
            return Verdict::Decided(check.settle(keys, now));
        }
        let bytes = check.bytes;
        pending.insert(ticket, check, waiter());
        Verdict::Waits { ticket, bytes }
    }

    /// Takes an event and returns what must be done.
    pub fn handle(&mut self, event: Event, now: NodeTime) -> Effects<W> {
        let mut effects = Effects::default();
        match event {
            Event::Flush => self.flush(&mut effects, now),
            Event::FlushDelayOver => self.delay_pending = false,
            Event::Tick => self.keys.tick(now),
            Event::Reply(reply) => self.complete(reply, &mut effects, now),
            Event::Expire(ticket) => self.expire(ticket, false, &mut effects, now),
            Event::ExpireEarly(ticket) => self.expire(ticket, true, &mut effects, now),
            Event::Cancel(ticket) => {
                let charges_always = self.pending.get_mut(ticket).is_some_and(|check| check.charges_always());
                if let Some((check, _)) = if charges_always { None } else { self.abandon(ticket) } {
                    check.refund(&mut self.keys, now);
                }
            }
            Event::Rules(book) => self.set_book(book),
            Event::Holders(holders) => self.keys.set_holders(holders),
            Event::Regions(regions) => self.set_regions(regions),
            Event::ReleaseTokens => self.keys.release_all(),
        }
        effects.flush = self.needs_flush(now);
        effects
    }

    /// True if the flusher must run: [`Event::Flush`].
    pub fn needs_flush(&self, now: NodeTime) -> bool {
        let lanes = &self.keys.lanes;
        lanes.can_send(now) || !self.delay_pending && lanes.send_delay(now).is_some()
    }

    /// True if no check waits and no lane has anything in flight or to send.
    pub fn is_quiet(&self) -> bool {
        self.pending.is_empty() && self.keys.lanes.are_quiet()
    }

    /// True if the store did not take returns or debts, which are sent again later.
    pub fn has_stalled(&self) -> bool {
        self.keys.has_stalled()
    }

    pub fn stats(&self) -> ShardStats {
        ShardStats { waiting: self.pending.len(), without_room: self.without_room, ..self.keys.stats() }
    }

    fn expire(&mut self, ticket: Ticket, early: bool, effects: &mut Effects<W>, now: NodeTime) {
        if let Some((mut check, waiter)) = self.abandon(ticket) {
            check.expire(early);
            effects.decided.push((waiter, check.settle(&mut self.keys, now)));
        }
    }

    fn flush(&mut self, effects: &mut Effects<W>, now: NodeTime) {
        effects.send = self.keys.take_batches(now);
        if !self.delay_pending {
            effects.flush_in = self.keys.lanes.send_delay(now);
            self.delay_pending = effects.flush_in.is_some();
        }
    }

    fn complete(&mut self, reply: Reply, effects: &mut Effects<W>, now: NodeTime) {
        for (ask, result) in self.keys.complete(reply, &mut effects.news, now) {
            let Some(check) = self.pending.get_mut(ask.ticket) else {
                // Its check waits no more: granted hits go back. An overdraft stays charged, unless this node owes it.
                let stays = ask.overdraft && ask.effective.on_store_failure != OnStoreFailure::Local;
                if let AskResult::Granted(receipt) = result
                    && !stays
                {
                    self.keys.refund(ask.slot, ask.hits, receipt, now);
                }
                continue;
            };
            if check.complete(ask.reservation, result, ask.ticket, &mut self.keys, now)
                && let Some((check, waiter)) = self.pending.remove(ask.ticket)
            {
                check.unpin(&mut self.keys);
                effects.decided.push((waiter, check.settle(&mut self.keys, now)));
            }
        }
    }

    /// Removes a check from the pending checks and withdraws its asks.
    fn abandon(&mut self, ticket: Ticket) -> Option<(PendingCheck, W)> {
        let (check, waiter) = self.pending.remove(ticket)?;
        check.abandon(ticket, &mut self.keys);
        Some((check, waiter))
    }

    fn set_regions(&mut self, regions: Option<Regions>) {
        let partitioned = |regions: Option<Regions>| regions.is_some_and(|regions| regions.partitioned_since.is_some());
        let before = std::mem::replace(&mut self.keys.regions, regions);
        if partitioned(before) != partitioned(regions) {
            // Tokens that were taken before go back, so that the store decides what the region may admit from now on.
            self.keys.release_all();
        }
    }

    fn set_book(&mut self, book: Arc<RuleBook>) {
        let newer = book.revision > self.book.revision;
        invariant::check(Invariant::I6RevisionGrows, newer || book.revision == self.book.revision);
        if newer {
            self.book = book;
            // Tokens that were taken under the old rules go back.
            self.keys.release_all();
        }
    }
}

#[cfg(test)]
mod tests;
