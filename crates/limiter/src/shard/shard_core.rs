//! One core's shard: it hosts the virtual key actors, decides what their tokens cover at once, and says what is to be
//! sent to the store for the rest.
//!
//! Pure: it is told the time, the store's answers and the rules, and returns verdicts and batches. At most one batch
//! is in flight per lane (a hash tag of the store); what comes meanwhile goes with the next.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use super::key_table::KeyTable;
use super::lanes::{Flying, Lanes};
use super::reservation::{PartState, UnderWay};
use crate::counter::{Batch, BatchAnswer, BatchOutcome, Item, ItemAnswer, StoreError};
use crate::decision::{Check, Decision};
use crate::invariant::{self, Invariant};
use crate::key::{Applied, Flight, Surroundings};
use crate::rules::RuleBook;
use crate::time::{NodeTime, StoreTime};

/// Items in one batch of a node at most: a batch that the store runs without making others wait for long.
pub const MAX_ITEMS: usize = 1000;

/// What a shard is built with.
#[derive(Clone, Copy, Debug)]
pub struct ShardConfig {
    /// Keys in memory at most.
    pub max_keys: usize,
    /// Checks waiting for the store at most.
    pub max_waiting: usize,
    /// Longest that tokens are held in advance, in microseconds.
    pub lease_us: u64,
    /// How long a batch may take, in microseconds.
    pub deadline_us: u64,
    /// How many may hold tokens of a key, until [`Shard::set_holders`] says otherwise.
    pub holders: u32,
    /// What `on_store_failure: local` divides by at least.
    pub min_holders: u32,
    /// Lanes of the store, each with its own clock and its own batch in flight.
    pub lanes: u16,
    /// Items in one batch at most.
    pub max_items: usize,
    /// Seeds of hashing, and of the names of incarnations and debts.
    pub seeds: [u64; 4],
}

/// What became of a check.
#[derive(Debug)]
pub enum Verdict {
    Decided(Decision),
    /// It waits for the store; its decision comes under this ticket.
    Waits(u64),
    Shed(Shed),
}

/// Why a check is not decided at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Shed {
    #[error("too many checks wait for the store")]
    TooManyWaiting,
    #[error("no more keys can be held")]
    TooManyKeys,
}

/// A batch for the store, and the flight that its answer belongs to.
#[derive(Debug)]
pub struct Outgoing {
    pub lane: u16,
    pub flight: u64,
    pub batch: Batch,
}

/// Counts that a node reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ShardStats {
    pub keys: usize,
    pub waiting: usize,
    pub batches: u64,
    pub items: u64,
    pub failed_batches: u64,
    /// Items that a batch carried, and whose key could not be served.
    pub failed_items: u64,
}

/// The shard of one core.
#[derive(Debug)]
pub struct Shard {
    config: ShardConfig,
    pub(super) book: Arc<RuleBook>,
    pub(super) keys: KeyTable,
    pub(super) checks: HashMap<u64, UnderWay, ahash::RandomState>,
    tickets: u64,
    lanes: Lanes,
    flights: u64,
    /// The name that batches bear.
    holder: u64,
    /// Leases by end.
    leases: BinaryHeap<Reverse<(NodeTime, u32)>>,
    /// Keys whose returns or debts a failing store did not take; tried again tick by tick.
    stalled: VecDeque<u32>,
    random: u64,
    pub(super) done: Vec<(u64, Decision)>,
    pub(super) stats: ShardStats,
    /// Kept to spare allocations.
    pub(super) name: Vec<u8>,
}

impl Shard {
    /// An empty shard; `wall` is the node's own idea of the store's clock.
    pub fn new(config: ShardConfig, wall: StoreTime, now: NodeTime) -> Self {
        let [a, b, c, d] = config.seeds;
        let mut shard = Self {
            config,
            book: Arc::new(RuleBook::empty()),
            keys: KeyTable::new(config.max_keys, config.seeds),
            checks: HashMap::with_hasher(ahash::RandomState::with_seeds(b, c, d, a)),
            tickets: 0,
            lanes: Lanes::new(config.lanes, wall, now),
            flights: 0,
            holder: 0,
            leases: BinaryHeap::new(),
            stalled: VecDeque::new(),
            random: a,
            done: Vec::new(),
            stats: ShardStats::default(),
            name: Vec::new(),
        };
        shard.holder = shard.next_name();
        shard
    }

    /// A shard that knows the rules and no keys, for use after a panic. Tickets and flights go on, so that nothing
    /// meant for the old one is taken for its own.
    #[must_use]
    pub fn successor(&self, wall: StoreTime, now: NodeTime) -> Self {
        let mut next = Self::new(self.config, wall, now);
        (next.tickets, next.flights, next.random) = (self.tickets + 1, self.flights + 1, self.random);
        next.holder = next.next_name();
        next.book = Arc::clone(&self.book);
        next
    }

    /// From now on so many may hold tokens of a key.
    pub fn set_holders(&mut self, holders: u32) {
        self.config.holders = holders.max(1);
    }

    pub const fn book(&self) -> &Arc<RuleBook> {
        &self.book
    }

    /// Decides from now on under `book`; an older revision is ignored. Tokens taken under the old rules go back.
    pub fn set_book(&mut self, book: Arc<RuleBook>) {
        let newer = book.revision > self.book.revision;
        invariant::check(Invariant::I6RevisionGrows, newer || book.revision == self.book.revision);
        if newer {
            self.book = book;
            self.release_all();
        }
    }

    /// Gives back all tokens in hand, as before leaving.
    pub fn release_all(&mut self) {
        for Reverse((_, slot)) in std::mem::take(&mut self.leases).into_vec() {
            if let Some(key) = self.keys.get_mut(slot) {
                key.listed = false;
                if key.state.release() {
                    self.queue(slot);
                }
            }
        }
    }

    /// Decides a check, or queues what it lacks at the keys' actors.
    pub fn check(&mut self, check: &Check<'_>, lane_of: impl Fn(&[u8]) -> u16, now: NodeTime) -> Verdict {
        let book = Arc::clone(&self.book);
        let Some(mut under_way) = self.gather(&book, check, lane_of) else {
            return Verdict::Shed(Shed::TooManyKeys);
        };
        let ticket = self.tickets;
        if self.reserve(&mut under_way, ticket, now) {
            self.tickets += 1;
            let full = self.checks.len() >= self.config.max_waiting;
            self.checks.insert(ticket, under_way);
            if full {
                self.withdraw(ticket, now);
                return Verdict::Shed(Shed::TooManyWaiting);
            }
            return Verdict::Waits(ticket);
        }
        self.unpin(&under_way);
        Verdict::Decided(self.settle(under_way, now))
    }

    /// Stops waiting for the store: what it did not decide is decided as each limit's `on_store_failure` says.
    pub fn expire(&mut self, ticket: u64, now: NodeTime) -> Option<Decision> {
        let mut under_way = self.stop(ticket)?;
        for part in &mut under_way.parts {
            if matches!(part.state, PartState::Waits | PartState::Deferred) {
                part.state = PartState::Failed;
            }
        }
        Some(self.settle(under_way, now))
    }

    /// Whoever asked is gone: what was reserved goes back, and nothing is decided.
    pub fn withdraw(&mut self, ticket: u64, now: NodeTime) {
        for part in self.stop(ticket).into_iter().flat_map(|under_way| under_way.parts) {
            if let (PartState::Granted(receipt), Some(slot)) = (part.state, part.slot) {
                self.refund(slot, part.hits, receipt, now);
            }
        }
    }

    /// Takes a check from where it waits. What is in flight for it is given back when it lands.
    fn stop(&mut self, ticket: u64) -> Option<UnderWay> {
        let under_way = self.checks.remove(&ticket)?;
        self.unpin(&under_way);
        for slot in under_way.parts.iter().filter(|p| p.state == PartState::Waits).filter_map(|p| p.slot) {
            if let Some(key) = self.keys.get_mut(slot) {
                key.state.withdraw(ticket);
            }
        }
        Some(under_way)
    }

    /// Decisions that came since the last call, by ticket.
    pub fn take_done(&mut self) -> Vec<(u64, Decision)> {
        std::mem::take(&mut self.done)
    }

    /// Whether a batch could be sent.
    pub fn has_batches(&self, now: NodeTime) -> bool {
        self.lanes.can_send(now)
    }

    /// In how many microseconds a batch may leave that cannot now, if nothing comes meanwhile; `None` where none waits.
    pub fn next_turn(&self, now: NodeTime) -> Option<u64> {
        self.lanes.next_turn(now)
    }

    /// Whether nothing waits and nothing is in flight or to be sent.
    pub fn is_quiet(&self) -> bool {
        self.checks.is_empty() && self.lanes.are_quiet()
    }

    /// Whether something is to be tried again that the store did not take.
    pub fn has_stalled(&self) -> bool {
        !self.stalled.is_empty()
    }

    /// The next batches of lanes that have none in flight, as many as have their turn.
    pub fn take_batches(&mut self, now: NodeTime) -> Vec<Outgoing> {
        let mut batches = Vec::new();
        while let Some(lane) = self.lanes.take_ready(now) {
            batches.extend(self.take_batch(lane, now));
        }
        batches
    }

    fn take_batch(&mut self, at: u16, now: NodeTime) -> Option<Outgoing> {
        let Some(not_after) = self.lanes.known_at(at, now.plus(self.config.deadline_us)) else {
            // No item is sent without an end: an empty batch asks for the store's clock first, and all keys wait for it.
            return Some(self.depart(at, now, None, Vec::new(), Vec::new()));
        };
        let around = self.surroundings(at, now);
        let (mut items, mut slots) = (Vec::new(), Vec::new());
        while items.len() < self.config.max_items {
            let Some(slot) = self.lanes.next(at) else { break };
            let Some(key) = self.keys.get_mut(slot) else { continue };
            key.queued = false;
            if let Some(item) = key.state.item(&key.name, &around) {
                items.push(item);
                slots.push(slot);
            }
        }
        (!items.is_empty()).then(|| self.depart(at, now, Some(not_after), items, slots))
    }

    fn depart(
        &mut self,
        at: u16,
        now: NodeTime,
        not_after: Option<StoreTime>,
        items: Vec<Item>,
        slots: Vec<u32>,
    ) -> Outgoing {
        self.flights += 1;
        self.stats.batches += 1;
        self.stats.items += items.len() as u64;
        let flight = self.flights;
        self.lanes.depart(at, Flying { flight, sent: now, slots });
        Outgoing { lane: at, flight, batch: Batch { not_after, holder: self.holder, number: flight, items } }
    }

    /// Takes the answer to a batch; one to a flight that is not under way (before a restart) is ignored.
    pub fn answer(&mut self, at: u16, flight: u64, answer: Result<BatchAnswer, StoreError>, now: NodeTime) {
        let ran = answer.as_ref().ok().map(|answer| answer.now);
        let late = answer.as_ref().is_ok_and(|answer| answer.outcome == BatchOutcome::Late);
        let failed_before = self.lanes.is_failing(at);
        let Some(flying) = self.lanes.land(at, flight, ran, late, now) else { return };
        let mut outcomes = Vec::new();
        match answer {
            Ok(BatchAnswer { now: ran, outcome }) => {
                let around = self.surroundings(at, now);
                let mut answers = match outcome {
                    BatchOutcome::Ran(answers) => answers.into_iter(),
                    BatchOutcome::Late => vec![ItemAnswer::OutOfBounds; flying.slots.len()].into_iter(),
                };
                if answers.len() > 0 && answers.as_slice().iter().all(|one| *one == ItemAnswer::Failed) {
                    self.lanes.fail(at);
                }
                let flight = Flight { sent: flying.sent, store_now: ran };
                for slot in flying.slots {
                    let Some(key) = self.keys.get_mut(slot) else { continue };
                    match answers.next() {
                        Some(ItemAnswer::Done(grant)) => {
                            let reported = grant.reported;
                            let more = key.state.answer(grant, &flight, &around, &mut outcomes);
                            if more && reported {
                                self.queue(slot);
                            } else if more {
                                // A debt that was not taken is reported again later.
                                self.after_failure(slot);
                            }
                        }
                        Some(ItemAnswer::OutOfBounds) => {
                            key.state.resend(&mut outcomes);
                            self.after_failure(slot);
                        }
                        Some(ItemAnswer::Failed) | None => {
                            self.stats.failed_items += 1;
                            key.state.fail(Applied::Unknown, &mut outcomes);
                            self.after_failure(slot);
                        }
                    }
                    self.list(slot);
                }
            }
            Err(error) => {
                self.stats.failed_batches += 1;
                let applied = if error == StoreError::NotApplied { Applied::No } else { Applied::Unknown };
                for slot in flying.slots {
                    let Some(key) = self.keys.get_mut(slot) else { continue };
                    key.state.fail(applied, &mut outcomes);
                    self.after_failure(slot);
                }
                while !self.lanes.is_known(at)
                    && let Some(slot) = self.lanes.next(at)
                {
                    // It waited for the store's clock.
                    let Some(key) = self.keys.get_mut(slot) else { continue };
                    key.queued = false;
                    key.state.fail_waiting(&mut outcomes);
                    self.after_failure(slot);
                }
            }
        }
        for (waiting, outcome) in outcomes {
            self.land(waiting, outcome, now);
        }
        if failed_before && !self.lanes.is_failing(at) {
            self.try_stalled();
        }
    }

    /// Who waits is sent for at once, what goes back or is owed with a tick to come.
    pub(super) fn after_failure(&mut self, slot: u32) {
        let Some(key) = self.keys.get_mut(slot) else { return };
        if key.state.waits() {
            self.queue(slot);
        } else if key.state.has_news() && !std::mem::replace(&mut key.stalled, true) {
            self.stalled.push_back(slot);
        }
    }

    /// Time passes: leases that are over go back, keys that nothing is remembered of are forgotten.
    pub fn tick(&mut self, now: NodeTime) {
        while self.leases.peek().is_some_and(|Reverse((end, _))| *end <= now) {
            let Some(Reverse((_, slot))) = self.leases.pop() else { break };
            let Some(key) = self.keys.get_mut(slot) else { continue };
            key.listed = false;
            if key.state.lease_end().is_some_and(|end| end <= now) && key.state.release() {
                self.queue(slot);
            }
            self.list(slot);
        }
        self.try_stalled();
        self.lanes.seek_clocks();
        self.keys.sweep(now);
    }

    /// Sends for what a store did not take: of a lane that fails one key, to see whether it still does, and of all no more
    /// than one batch has, for however many owe.
    fn try_stalled(&mut self) {
        let mut tried = Vec::new();
        for _ in 0..self.stalled.len().min(self.config.max_items) {
            let Some(slot) = self.stalled.pop_front() else { break };
            let Some(key) = self.keys.get_mut(slot) else { continue };
            let lane = key.lane;
            if self.lanes.is_failing(lane) && tried.contains(&lane) {
                self.stalled.push_back(slot);
                continue;
            }
            tried.push(lane);
            key.stalled = false;
            self.queue(slot);
        }
    }

    pub fn stats(&self) -> ShardStats {
        ShardStats { keys: self.keys.len(), waiting: self.checks.len(), ..self.stats }
    }

    pub(super) fn queue(&mut self, slot: u32) {
        let Some(key) = self.keys.get_mut(slot) else { return };
        let at = key.lane;
        if !std::mem::replace(&mut key.queued, true) {
            self.lanes.queue(at, slot);
        }
    }

    /// Puts a key with tokens in hand on the list of leases.
    pub(super) fn list(&mut self, slot: u32) {
        let Some(key) = self.keys.get_mut(slot) else { return };
        if let Some(end) = key.state.lease_end().filter(|_| !key.listed) {
            key.listed = true;
            self.leases.push(Reverse((end, slot)));
        }
    }

    pub(super) fn surroundings(&self, lane: u16, now: NodeTime) -> Surroundings {
        Surroundings {
            now,
            store_now: self.lanes.store_now(lane, now),
            store_known: self.lanes.is_known(lane),
            lease_us: self.config.lease_us,
            holders: self.config.holders,
            divisor: self.config.holders.max(self.config.min_holders),
        }
    }

    /// A name that nobody else has: SplitMix64 (Steele, Lea, Flood 2014), below 2^48 and never 0.
    pub(super) fn next_name(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) >> 16).max(1)
    }
}
