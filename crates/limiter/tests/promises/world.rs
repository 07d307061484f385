//! A small world for property tests: holders (real shards) and one store (the real store function). The tests control
//! the network between them.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::test_runner::Config as ProptestConfig;

use crate::deliveries::{charge_times, hits_of, reply_event};
use crate::rules::rule_book;

use limiter::counter::{Batch, BatchOutcome, BatchReply, ItemReply, Record, StoreError, apply, run};
use limiter::rules::Limit;
use limiter::{
    Charging, Check, Decision, Descriptor, Effects, Event, LaneId, NodeTime, Outgoing, Overload, Revision, Shard,
    ShardConfig, StoreTime, Ticket, Verdict, WallTime,
};

/// The time at which a world starts, in microseconds since the epoch. It is a full second.
pub const START_US: u64 = 1_700_000_000_000_000;
pub const LEASE_US: u64 = 300_000;

/// Returns a configuration with 1,000 cases for each property. `TIDEGATE_CASES` overrides the number.
pub fn proptest_config() -> ProptestConfig {
    let cases = std::env::var("TIDEGATE_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(1000);
    ProptestConfig { cases, max_shrink_iters: 20_000, failure_persistence: None, ..ProptestConfig::default() }
}

/// An admitted check.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    pub user: u8,
    /// The store time at which the hits count, in microseconds since the epoch.
    pub at: u64,
    pub hits: u64,
    /// True if the check was decided without the store.
    pub degraded: bool,
}

/// Holders, one store, and the virtual time.
pub struct World {
    /// Microseconds since [`START_US`].
    pub now: u64,
    /// Store clock minus world clock, in microseconds.
    pub store_clock_offset: i64,
    pub store: BTreeMap<Box<[u8]>, Option<Record>>,
    pub replica: BTreeMap<Box<[u8]>, Option<Record>>,
    pub replication_id: u64,
    pub holders: Vec<Holder>,
    pub admissions: Vec<Admission>,
    /// The decision of the last check that was decided.
    pub last_decision: Option<Decision>,
    /// Number of checks that a limit denied or for whose keys there was no room.
    pub denied: u64,
    /// Hits of batches that the store may have charged without a reply.
    pub uncertain_hits: u64,
    pub revision: Revision,
}

/// A shard with its clock and its link to the store.
pub struct Holder {
    pub shard: Shard<u64>,
    /// Node clock minus world clock, in microseconds.
    clock_offset: u64,
    /// The batch that was sent and has not reached the store.
    outgoing: Option<Outgoing>,
    /// The reply that has not reached the holder.
    pending_reply: Option<PendingReply>,
    /// Checks that wait for the store, by number.
    waiting: BTreeMap<u64, WaitingCheck>,
    /// Number of checks so far.
    check_count: u64,
    /// Every batch that reached the store, oldest first.
    pub delivered: Vec<Batch>,
}

/// A reply on its way to the holder.
struct PendingReply {
    out: Outgoing,
    reply: BatchReply,
    /// The store times at which the hits of users 0 and 1 count.
    charged_at: [u64; 2],
}

/// A check that waits for the store.
#[derive(Clone, Copy)]
struct WaitingCheck {
    ticket: Ticket,
    user: u8,
    hits: u64,
}

impl World {
    pub fn new(holders: usize, limits: Vec<Limit>) -> Self {
        Self::with_max_keys(holders, limits, 1000)
    }

    /// Returns a world whose holders have room for `max_keys` keys and know the store's clock.
    pub fn with_max_keys(holders: usize, limits: Vec<Limit>, max_keys: usize) -> Self {
        let mut world = Self::with_unknown_clock(holders, limits, max_keys);
        for holder in 0..holders {
            world.deliver_batch(holder, false);
            world.deliver_reply(holder);
        }
        world
    }

    /// Returns a world whose holders do not know the store's clock yet.
    pub fn with_unknown_clock(holders: usize, limits: Vec<Limit>, max_keys: usize) -> Self {
        let new_holder = |index: usize| {
            let clock_offset = index as u64 * 7_777_777;
            let seed = index as u64 + 1;
            let config = ShardConfig {
                max_keys,
                max_waiting: 1000,
                lease_us: LEASE_US,
                deadline_us: 100_000,
                holders: u32::try_from(holders).unwrap(),
                min_holders: 3,
                lanes: 1,
                max_items: 100,
                hash_keys: false,
                seeds: [seed, seed << 20, seed << 30, seed << 40],
            };
            // A node's wall clock may be far off.
            let wall = WallTime(START_US + clock_offset * 1000);
            let mut shard = Shard::new(config, wall, NodeTime(clock_offset));
            let _ = shard.handle(Event::Rules(rule_book(limits.clone(), Revision(1))), NodeTime(clock_offset));
            Holder {
                shard,
                clock_offset,
                outgoing: None,
                pending_reply: None,
                waiting: BTreeMap::new(),
                check_count: 0,
                delivered: Vec::new(),
            }
        };
        Self {
            now: 0,
            store_clock_offset: 0,
            store: BTreeMap::new(),
            replica: BTreeMap::new(),
            replication_id: 1,
            holders: (0..holders).map(new_holder).collect(),
            admissions: Vec::new(),
            last_decision: None,
            denied: 0,
            uncertain_hits: 0,
            revision: Revision(1),
        }
    }

    pub fn store_now(&self) -> u64 {
        (START_US + self.now).saturating_add_signed(self.store_clock_offset)
    }

    pub fn node_now(&self, holder: usize) -> NodeTime {
        NodeTime(self.now + self.holders[holder].clock_offset)
    }

    pub fn check(&mut self, holder: usize, user: u8, hits: u32) {
        self.check_charging(holder, user, hits, Charging::IfAllowed);
    }

    /// Asks a check whose hits are charged as `charging` says.
    pub fn check_charging(&mut self, holder: usize, user: u8, hits: u32, charging: Charging) {
        let (now, at) = (self.node_now(holder), self.store_now());
        let name = user.to_string();
        let entries = [("user", name.as_str())];
        let descriptors = [Descriptor { entries: &entries, ordered: true, hits, charging, limit: None }];
        let check = Check { domain: "d", descriptors: &descriptors };
        let target = &mut self.holders[holder];
        target.check_count += 1;
        let (number, hits) = (target.check_count, u64::from(hits));
        match target.shard.check(&check, |_| LaneId(0), now, || number) {
            Verdict::Decided(decision) => self.record_decision(&decision, user, hits, at),
            Verdict::Waits { ticket, .. } => {
                target.waiting.insert(number, WaitingCheck { ticket, user, hits });
            }
            Verdict::Overloaded(Overload::TooManyKeys) => self.denied += 1,
            Verdict::Overloaded(overload) => panic!("{overload:?}"),
        }
    }

    fn record_decision(&mut self, decision: &Decision, user: u8, hits: u64, at: u64) {
        self.last_decision = Some(decision.clone());
        if decision.allowed {
            self.admissions.push(Admission { user, at, hits, degraded: decision.degraded });
        } else {
            self.denied += 1;
        }
    }

    /// Sends the holder's next batch if none is in flight. Checks that a batch with items has a `not_after`, and that
    /// it asks for no more hits than the waiting checks need.
    pub fn send_batch(&mut self, holder: usize) {
        let now = self.node_now(holder);
        let target = &mut self.holders[holder];
        if target.outgoing.is_some() || target.pending_reply.is_some() {
            return;
        }
        target.outgoing = target.shard.handle(Event::Flush, now).send.pop();
        let waiting: u64 = target.waiting.values().map(|check| check.hits).sum();
        let unbounded = |out: &Outgoing| out.batch.not_after.is_none() && !out.batch.items.is_empty();
        assert!(!target.outgoing.as_ref().is_some_and(unbounded), "a batch that carries items has a not_after");
        for item in target.outgoing.iter().flat_map(|out| &out.batch.items) {
            let asked: u64 = item.asks.iter().map(|ask| ask.hits * u64::from(ask.count)).sum();
            assert!(asked <= waiting, "the batch asks for {asked} hits, but the waiting checks need {waiting}");
        }
    }

    /// Delivers the holder's next batch to the store, which runs it. If `twice`, the store runs it a second time.
    pub fn deliver_batch(&mut self, holder: usize, twice: bool) {
        self.send_batch(holder);
        let Some(out) = self.holders[holder].outgoing.take() else { return };
        let reply = self.run_batch(&out.batch);
        if twice {
            self.run_batch(&out.batch);
            self.uncertain_hits += hits_of(&out.batch);
        }
        let charged_at = charge_times(&out.batch, &reply);
        self.holders[holder].delivered.push(out.batch.clone());
        self.holders[holder].pending_reply = Some(PendingReply { out, reply, charged_at });
    }

    /// Runs a batch at the store now. The test may have taken it from [`Self::give_up_batch`].
    pub fn run_batch(&mut self, batch: &Batch) -> BatchReply {
        let now = StoreTime(self.store_now());
        let store = &mut self.store;
        run(batch, now, self.replication_id, &mut None, |item, at| {
            apply(store.entry(item.key.clone()).or_default(), item, at)
        })
    }

    /// Runs one of the holder's delivered batches again: the one that came `back` batches before the last.
    pub fn redeliver_batch(&mut self, holder: usize, back: usize) {
        let delivered = &self.holders[holder].delivered;
        let Some(batch) = delivered.iter().rev().nth(back).cloned() else { return };
        self.run_batch(&batch);
        self.uncertain_hits += hits_of(&batch);
    }

    /// Delivers the pending reply to the holder. Hits of checks that waited count at the time at which the batch ran.
    pub fn deliver_reply(&mut self, holder: usize) {
        let now = self.node_now(holder);
        let target = &mut self.holders[holder];
        let Some(PendingReply { out, reply, charged_at }) = target.pending_reply.take() else { return };
        let effects = target.shard.handle(reply_event(&out, Ok(reply.clone())), now);
        // A reply that arrives twice changes nothing.
        assert!(target.shard.handle(reply_event(&out, Ok(reply)), now).decided.is_empty());
        self.record_decisions(holder, effects, charged_at);
    }

    /// Loses the holder's batch, or its reply if `charged`. The holder does not know the outcome.
    pub fn lose_batch(&mut self, holder: usize, charged: bool) {
        self.complete_with_error(holder, charged, StoreError::Unknown);
    }

    /// Fails the holder's next batch because the store is not reachable.
    pub fn fail_to_send(&mut self, holder: usize) {
        if self.holders[holder].pending_reply.is_none() {
            self.complete_with_error(holder, false, StoreError::NotApplied);
        }
    }

    /// Sends the holder's next batches. The store replies that every item failed.
    pub fn fail_all_items(&mut self, holder: usize) {
        let (now, store_now) = (self.node_now(holder), StoreTime(self.store_now()));
        let target = &mut self.holders[holder];
        for out in target.shard.handle(Event::Flush, now).send {
            let items = vec![ItemReply::Failed; out.batch.items.len()];
            let reply = BatchReply { now: store_now, outcome: BatchOutcome::Ran(items) };
            let _ = target.shard.handle(reply_event(&out, Ok(reply)), now);
        }
    }

    fn complete_with_error(&mut self, holder: usize, charged: bool, error: StoreError) {
        if charged {
            self.deliver_batch(holder, false);
        } else {
            self.send_batch(holder);
        }
        let now = self.node_now(holder);
        let target = &mut self.holders[holder];
        let replied = |pending: PendingReply| pending.out;
        let Some(out) = target.outgoing.take().or_else(|| target.pending_reply.take().map(replied)) else { return };
        let effects = target.shard.handle(reply_event(&out, Err(error)), now);
        if error == StoreError::Unknown {
            self.uncertain_hits += hits_of(&out.batch);
        }
        let at = self.store_now();
        self.record_decisions(holder, effects, [at; 2]);
    }

    /// Records decisions for checks that waited. Those of users 0 and 1 count at the times `at`, others at the first.
    fn record_decisions(&mut self, holder: usize, effects: Effects<u64>, at: [u64; 2]) {
        for (number, decision) in effects.decided {
            if let Some(WaitingCheck { user, hits, .. }) = self.holders[holder].waiting.remove(&number) {
                let at = at.get(usize::from(user)).copied().unwrap_or(at[0]);
                self.record_decision(&decision, user, hits, at);
            }
        }
    }

    /// Makes the holder give up on a batch that is still in flight. Returns the batch for [`Self::run_batch`].
    pub fn give_up_batch(&mut self, holder: usize) -> Option<Batch> {
        self.send_batch(holder);
        let batch = self.holders[holder].outgoing.as_ref()?.batch.clone();
        self.lose_batch(holder, false);
        Some(batch)
    }

    /// Returns the tickets of the holder's waiting checks.
    pub fn waiting_tickets(&self, holder: usize) -> Vec<Ticket> {
        self.holders[holder].waiting.values().map(|check| check.ticket).collect()
    }

    /// Expires every waiting check of the holder.
    pub fn expire_all(&mut self, holder: usize) {
        let tickets = self.waiting_tickets(holder);
        self.expire_tickets(holder, tickets);
    }

    /// Expires one of the holder's waiting checks, the one at index `nth` modulo their number.
    pub fn expire_one(&mut self, holder: usize, nth: usize) {
        let waiting = &self.holders[holder].waiting;
        let check = nth.checked_rem(waiting.len()).and_then(|nth| waiting.values().nth(nth));
        let tickets = check.map(|check| check.ticket).into_iter().collect();
        self.expire_tickets(holder, tickets);
    }

    fn expire_tickets(&mut self, holder: usize, tickets: Vec<Ticket>) {
        let (now, at) = (self.node_now(holder), self.store_now());
        for ticket in tickets {
            let effects = self.holders[holder].shard.handle(Event::Expire(ticket), now);
            assert_eq!(effects.decided.len(), 1, "a check that expires is decided");
            self.record_decisions(holder, effects, [at; 2]);
        }
    }

    /// Advances the time and ticks every shard.
    pub fn advance(&mut self, micros: u64) {
        self.now += micros;
        for holder in 0..self.holders.len() {
            let now = self.node_now(holder);
            let _ = self.holders[holder].shard.handle(Event::Tick, now);
        }
    }

    /// Gives every holder new rules with the next revision.
    pub fn change_rules(&mut self, limits: Vec<Limit>) {
        self.revision = self.revision.next(0);
        let book = rule_book(limits, self.revision);
        for holder in 0..self.holders.len() {
            let now = self.node_now(holder);
            let _ = self.holders[holder].shard.handle(Event::Rules(Arc::clone(&book)), now);
        }
    }

    /// Advances the clock of one holder.
    pub fn advance_holder_clock(&mut self, holder: usize, micros: u64) {
        self.holders[holder].clock_offset += micros;
    }

    /// Makes the store lose all data (`all`), or all that changed since the replica was last in sync.
    pub fn lose_data(&mut self, all: bool) {
        self.replication_id += 1;
        self.store = if all { BTreeMap::new() } else { self.replica.clone() };
    }

    /// Delivers batches and replies until no holder has anything to send.
    pub fn deliver_all(&mut self) {
        for _ in 0..1000 {
            for holder in 0..self.holders.len() {
                self.deliver_batch(holder, false);
                self.deliver_reply(holder);
            }
            if self.holders.iter().all(|h| h.shard.is_quiet()) {
                return;
            }
        }
        panic!("the holders still have something to send");
    }

    /// Ends all leases and delivers everything.
    pub fn end_leases(&mut self) {
        self.deliver_all();
        self.advance(LEASE_US + 1);
        self.deliver_all();
    }
}
