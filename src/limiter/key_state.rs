//! The virtual actor of one key: tokens in hand, checks that wait, one item in flight, what it remembers.
//!
//! It never waits and never looks at a clock: [`super::shard`] tells it what happened and when.

use std::collections::VecDeque;
use std::sync::Arc;

use super::batch::{Ask, BucketReturn, BucketSeen, Counter, Grant, Granted, Item, Prefetch, Seen, WindowReturn};
use super::effective::{Effective, Shape};
use super::invariant::{self, Invariant};
use super::lease::Demand;
use super::local::{LastSeen, LocalShare};
use super::rule::OnStoreFailure;
use super::time::{NodeTime, StoreTime};
use super::token_bucket::Ticks;
use super::window::{Cell, Grid, cell_at};

/// At most so many waiting asks go into one item.
const MAX_ASKS: usize = 4096;

/// Where granted hits were charged; what a refund must name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Receipt {
    /// Nothing was charged in the store.
    Free,
    Window(Lot),
    Bucket {
        incarnation: u64,
        step: Ticks,
        at: StoreTime,
    },
}

/// Tokens of one lot were charged to one cell in one incarnation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lot {
    pub cell_ms: u64,
    pub source: u64,
}

/// A check's part that waits at a key.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub ticket: u64,
    /// The key's own slot.
    pub slot: u32,
    /// Place in the check.
    pub part: usize,
    pub hits: u64,
    /// The limit under which it was asked: an edit does not change a check under way.
    pub effective: Arc<Effective>,
    /// It was sent before, and the store did nothing.
    pub resent: bool,
}

/// What became of a waiting part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Granted(Receipt),
    /// Node time at which it would fit; `None` if never.
    Refused(Option<NodeTime>),
    /// The store did not decide.
    Failed,
}

/// What a key needs to know of its surroundings.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    pub now: NodeTime,
    /// This node's estimate of the store's clock.
    pub store_now: StoreTime,
    /// Longest that tokens are held, in microseconds.
    pub lease_us: u64,
    /// How many may hold tokens of a key.
    pub holders: u32,
    /// What `local` divides by.
    pub divisor: u32,
    /// Names this holder and its boot in a cell's map.
    pub debtor: u64,
}

/// When a batch was sent, and the store's clock when it ran.
#[derive(Clone, Copy, Debug)]
pub struct Flight {
    pub sent: NodeTime,
    pub store_now: StoreTime,
}

/// Whether a batch without an answer may have been applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    No,
    Unknown,
}

/// The state of one key.
#[derive(Debug)]
pub struct KeyState {
    effective: Arc<Effective>,
    held: u32,
    lot: Lot,
    held_until: NodeTime,
    demand: Demand,
    known: Option<Known>,
    refusal: Option<Refusal>,
    seen: Remembered,
    traffic: Option<Box<Traffic>>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    available: u64,
    reset_at: NodeTime,
}

#[derive(Clone, Copy, Debug)]
struct Refusal {
    hits: u64,
    until: NodeTime,
    fits_at: Option<NodeTime>,
}

#[derive(Debug)]
enum Remembered {
    Nothing,
    Window(Vec<Cell>),
    Bucket(BucketSeen),
}

/// What only a key under way to the store needs.
#[derive(Debug, Default)]
struct Traffic {
    waiting: VecDeque<Waiting>,
    flying: Vec<Waiting>,
    in_flight: bool,
    window_returns: Vec<WindowReturn>,
    bucket_returns: Vec<BucketReturn>,
    sent_revision: u64,
    /// Returns in flight, kept in case nothing was applied.
    sent_window: Vec<WindowReturn>,
    sent_bucket: Vec<BucketReturn>,
    share: Option<LocalShare>,
}

impl KeyState {
    pub const fn new(effective: Arc<Effective>) -> Self {
        Self {
            effective,
            held: 0,
            lot: Lot { cell_ms: 0, source: 0 },
            held_until: NodeTime(0),
            demand: Demand::NEW,
            known: None,
            refusal: None,
            seen: Remembered::Nothing,
            traffic: None,
        }
    }

    /// Takes over the limit of another revision: tokens taken under the old one go back, its refusal is forgotten.
    /// Returns whether something is to be sent.
    pub fn adopt(&mut self, effective: &Arc<Effective>) -> bool {
        if effective.revision <= self.effective.revision {
            return false;
        }
        if self.effective.limit != effective.limit || self.effective.rate != effective.rate {
            self.known = None;
        }
        self.effective = Arc::clone(effective);
        self.refusal = None;
        self.release()
    }

    /// The remembered refusal of `hits` under `revision`, if it still stands: when they would fit. More than were refused
    /// are told of the instant when all is free again, which is never too early.
    pub fn refuses(&self, hits: u64, revision: u64, now: NodeTime) -> Option<Option<NodeTime>> {
        let stands = |r: &&Refusal| now < r.until && hits.max(1) >= r.hits && revision == self.effective.revision;
        let refusal = self.refusal.as_ref().filter(stands)?;
        Some(match self.known {
            _ if hits > self.effective.most() => None,
            Some(known) if hits > refusal.hits => Some(known.reset_at),
            _ => refusal.fits_at,
        })
    }

    /// Pays `hits` from the tokens in hand.
    pub fn spend(&mut self, hits: u64, revision: u64, now: NodeTime) -> Option<Receipt> {
        let hits = u32::try_from(hits).ok()?;
        let queue = self.traffic.as_ref().is_some_and(|t| !t.waiting.is_empty());
        if queue || self.held < hits.max(1) || now >= self.held_until || revision != self.effective.revision {
            return None;
        }
        self.held -= hits;
        self.demand.spend(hits);
        Some(if hits == 0 { Receipt::Free } else { Receipt::Window(self.lot) })
    }

    /// Whether the tokens in hand run low and more should be asked for ahead of need.
    pub fn wants_refill(&mut self) -> bool {
        !self.traffic.as_ref().is_some_and(|t| t.in_flight) && self.demand.refill(self.held)
    }

    /// Queues a part for the store.
    pub fn ask(&mut self, waiting: Waiting) {
        self.traffic.get_or_insert_default().waiting.push_back(waiting);
    }

    /// A check waits no more. Those that wait stand in the order of their tickets.
    pub fn withdraw(&mut self, ticket: u64) {
        let Some(waiting) = self.traffic.as_mut().map(|t| &mut t.waiting) else { return };
        let first = waiting.partition_point(|w| w.ticket < ticket);
        while waiting.get(first).is_some_and(|w| w.ticket == ticket) {
            waiting.remove(first);
        }
    }

    /// Takes back hits that were granted and not used. Returns whether something is to be sent.
    pub fn refund(&mut self, hits: u64, receipt: Receipt, now: NodeTime) -> bool {
        match receipt {
            Receipt::Free => false,
            _ if hits == 0 => false,
            Receipt::Window(lot) => {
                let in_hand = self.lot == lot && now < self.held_until;
                match u32::try_from(hits).ok().and_then(|hits| self.held.checked_add(hits)).filter(|_| in_hand) {
                    Some(held) => {
                        self.held = held;
                        false
                    }
                    None => {
                        let back = WindowReturn { cell_ms: lot.cell_ms, source: lot.source, tokens: hits };
                        self.traffic.get_or_insert_default().window_returns.push(back);
                        true
                    }
                }
            }
            Receipt::Bucket { incarnation, step, at } => {
                let back = BucketReturn { incarnation, step, hits, charged_at: at };
                self.traffic.get_or_insert_default().bucket_returns.push(back);
                true
            }
        }
    }

    /// When the tokens in hand must be given back; `None` when there are none.
    pub fn lease_end(&self) -> Option<NodeTime> {
        (self.held > 0).then_some(self.held_until)
    }

    /// Puts the tokens in hand among the returns. Returns whether something is to be sent.
    pub fn release(&mut self) -> bool {
        self.held_until = NodeTime(0);
        let tokens = std::mem::take(&mut self.held);
        if tokens > 0 {
            let back = WindowReturn { cell_ms: self.lot.cell_ms, source: self.lot.source, tokens: tokens.into() };
            self.traffic.get_or_insert_default().window_returns.push(back);
        }
        tokens > 0
    }

    /// The next item for the store, if there is anything to say. `alive` tells which checks still wait.
    pub fn item(&mut self, key: &[u8], around: &Surroundings, alive: impl Fn(u64) -> bool) -> Option<Item> {
        let waits = self.traffic.as_mut().is_some_and(|t| {
            t.waiting.retain(|w| alive(w.ticket));
            !t.waiting.is_empty()
        });
        // A check that the tokens in hand do not cover asks for all it needs, and the same item gives them back.
        if waits || around.now >= self.held_until {
            self.release();
        }
        let want = if self.effective.leased && (waits || self.demand.wants_refill()) {
            self.demand.want(self.held, around.lease_us, around.now)
        } else {
            0
        };
        let traffic = self.traffic.get_or_insert_default();
        let effective = Arc::clone(traffic.waiting.front().map_or(&self.effective, |w| &w.effective));
        let mut asks: Vec<Ask> = Vec::new();
        while let Some(next) = traffic.waiting.pop_front_if(|w| w.effective.revision == effective.revision) {
            match asks.last_mut().filter(|run| run.hits == next.hits) {
                Some(run) => run.count += 1,
                None => asks.push(Ask { hits: next.hits, count: 1 }),
            }
            self.demand.spend(u32::try_from(next.hits).unwrap_or(u32::MAX));
            traffic.flying.push(next);
            if traffic.flying.len() >= MAX_ASKS {
                break;
            }
        }
        let same_rules = effective.revision == self.effective.revision;
        let counter = if matches!(effective.shape, Shape::Bucket) {
            let returns = std::mem::take(&mut traffic.bucket_returns);
            traffic.sent_bucket.clone_from(&returns);
            let seen = if let Remembered::Bucket(seen) = &self.seen { Some(*seen) } else { None };
            Counter::Bucket { rate: effective.rate, revision: effective.revision, seen, returns }
        } else {
            let returns = std::mem::take(&mut traffic.window_returns);
            traffic.sent_window.clone_from(&returns);
            let seen = if let Remembered::Window(cells) = &self.seen { cells.clone() } else { Vec::new() };
            // Where no calendar reaches, no store can be within its bounds either.
            let grid = effective.grid(around.store_now).unwrap_or(Grid::Calendar { bounds: [0; 4] });
            let lease = Prefetch { want, holders: around.holders, min_left: around.lease_us / 16 };
            let lease = Some(lease).filter(|_| same_rules && want > 0);
            Counter::Window { grid, limit: effective.limit, seen, returns, lease }
        };
        let nothing = match &counter {
            Counter::Window { returns, lease, .. } => returns.is_empty() && lease.is_none(),
            Counter::Bucket { returns, .. } => returns.is_empty(),
        };
        if asks.is_empty() && nothing {
            self.tidy();
            return None;
        }
        traffic.in_flight = true;
        traffic.sent_revision = effective.revision;
        Some(Item { key: key.into(), asks, counter })
    }

    /// The store ran the item: settles what waited for it. Returns whether something is to be sent.
    pub fn answer(
        &mut self,
        grant: Grant,
        flight: &Flight,
        around: &Surroundings,
        out: &mut Vec<(Waiting, Outcome)>,
    ) -> bool {
        let Some(traffic) = self.traffic.as_mut() else { return false };
        let same_rules = traffic.sent_revision == self.effective.revision;
        let flying = std::mem::take(&mut traffic.flying);
        traffic.landed();
        // A wait is told from now on, and remembered from the sending on: neither is too short for the one who waits.
        let waits = |at: StoreTime| at.since(flight.store_now);
        let lot = match &grant.seen {
            Seen::Window { incarnation, cell_ms, .. } => Lot { cell_ms: *cell_ms, source: *incarnation },
            Seen::Bucket { .. } => Lot::default(),
        };
        let receipt = |w: &Waiting| match &grant.seen {
            _ if w.hits == 0 => Receipt::Free,
            Seen::Window { .. } => Receipt::Window(lot),
            Seen::Bucket { incarnation, at, .. } => {
                Receipt::Bucket { incarnation: *incarnation, step: w.effective.rate.step, at: *at }
            }
        };
        let mut refusal: Option<Refusal> = None;
        let mut runs = grant.granted.iter();
        for run in flying.chunk_by(|a, b| a.hits == b.hits) {
            let Some(Granted { count, fits_at }) = runs.next() else {
                out.extend(run.iter().cloned().map(|w| (w, Outcome::Failed)));
                continue;
            };
            let (granted, refused) = run.split_at((*count as usize).min(run.len()));
            out.extend(granted.iter().map(|w| (w.clone(), Outcome::Granted(receipt(w)))));
            let fits_at_node = fits_at.map(|at| around.now.plus(waits(at)));
            out.extend(refused.iter().map(|w| (w.clone(), Outcome::Refused(fits_at_node))));
            if let Some(first) = refused.first().filter(|w| refusal.is_none_or(|r| w.hits.max(1) < r.hits)) {
                let stands_us = fits_at.map_or(around.lease_us, waits).min(around.lease_us);
                let until = flight.sent.plus(stands_us);
                refusal = Some(Refusal { hits: first.hits.max(1), until, fits_at: fits_at_node });
            }
        }
        if same_rules {
            self.refusal = refusal;
            let reset_at = around.now.plus(waits(grant.reset_at));
            self.known = Some(Known { available: grant.available, reset_at });
        }
        if let Seen::Window { cell_end_ms, .. } = &grant.seen
            && grant.lease > 0
        {
            let ends_us = waits(StoreTime::from_millis(*cell_end_ms));
            self.lease(grant.lease, lot, flight.sent.plus(around.lease_us.min(ends_us)), same_rules, around.now);
        }
        self.seen = match grant.seen {
            Seen::Window { cells, .. } => Remembered::Window(cells),
            Seen::Bucket { incarnation, tat, .. } => Remembered::Bucket(BucketSeen { incarnation, tat }),
        };
        if let Some(traffic) = self.traffic.as_mut() {
            traffic.share = None;
        }
        self.tidy();
        self.has_news()
    }

    /// Takes granted tokens in hand, or gives them straight back when the rules changed meanwhile.
    fn lease(&mut self, tokens: u32, lot: Lot, until: NodeTime, same_rules: bool, now: NodeTime) {
        if self.lot != lot || !same_rules {
            self.release();
        }
        (self.lot, self.held_until) = (lot, until);
        self.held = self.held.saturating_add(tokens);
        if same_rules {
            self.demand.granted(now);
        } else {
            self.release();
        }
    }

    /// The store did nothing with the item: what was sent is to be sent once more, but for asks that were already.
    /// Returns whether something is to be sent.
    pub fn resend(&mut self, out: &mut Vec<(Waiting, Outcome)>) -> bool {
        let Some(traffic) = self.traffic.as_mut() else { return false };
        traffic.window_returns.append(&mut traffic.sent_window);
        traffic.bucket_returns.append(&mut traffic.sent_bucket);
        traffic.landed();
        for mut waiting in std::mem::take(&mut traffic.flying).into_iter().rev() {
            if waiting.resent {
                out.push((waiting, Outcome::Failed));
            } else {
                waiting.resent = true;
                traffic.waiting.push_front(waiting);
            }
        }
        self.has_news()
    }

    /// No answer came. What was sent is not sent again when the store may have run it.
    pub fn fail(&mut self, applied: Applied, out: &mut Vec<(Waiting, Outcome)>) {
        let Some(traffic) = self.traffic.as_mut() else { return };
        if applied == Applied::No {
            traffic.window_returns.append(&mut traffic.sent_window);
            traffic.bucket_returns.append(&mut traffic.sent_bucket);
        }
        traffic.landed();
        out.extend(traffic.flying.drain(..).map(|w| (w, Outcome::Failed)));
        self.tidy();
    }

    /// Decides `hits` without the store, as the limit's `on_store_failure` says.
    pub fn decide_alone(&mut self, hits: u64, effective: &Effective, around: &Surroundings) -> bool {
        match effective.on_store_failure {
            OnStoreFailure::Allow => return true,
            OnStoreFailure::Deny => return false,
            OnStoreFailure::Local => {}
        }
        let seen = match &self.seen {
            Remembered::Nothing => LastSeen::Nothing,
            Remembered::Window(cells) => LastSeen::Window(cells),
            Remembered::Bucket(seen) => LastSeen::Bucket(*seen),
        };
        let share = &mut self.traffic.get_or_insert_default().share;
        if share.as_ref().is_none_or(|s| s.is_over(effective, around.store_now)) {
            *share = LocalShare::new(effective, seen, around.divisor, around.store_now);
        }
        let Some(cell_ms) = share.as_mut().and_then(|share| share.take(hits, around.store_now)) else { return false };
        if hits > 0 && !matches!(effective.shape, Shape::Bucket) {
            self.owe(cell_ms, around.debtor, hits);
        }
        true
    }

    /// Notes a debt in what is sent with the next item: one more entry of the cell's map, cumulative.
    fn owe(&mut self, cell_ms: u64, debtor: u64, hits: u64) {
        if !matches!(self.seen, Remembered::Window(_)) {
            self.seen = Remembered::Window(Vec::new());
        }
        if let Remembered::Window(cells) = &mut self.seen {
            cell_at(cells, cell_ms).charge(debtor, hits);
            cells.truncate(2);
        }
    }

    /// Hits left as far as this node knows; `None` for unlimited.
    pub fn remaining(&self, effective: &Effective) -> Option<u64> {
        if effective.is_unlimited() {
            return None;
        }
        let left = self.known.map_or(effective.most(), |k| k.available);
        let coming_back = self.traffic.as_ref().map_or(0, |t| t.coming_back());
        Some(left.saturating_add(self.held.into()).saturating_add(coming_back).min(effective.most()))
    }

    /// Microseconds until the whole limit is free again, as far as this node knows.
    pub fn reset(&self, now: NodeTime) -> u64 {
        self.known.map_or(0, |k| k.reset_at.since(now))
    }

    /// Whether nothing that it remembers matters any more.
    pub fn is_idle(&self, now: NodeTime) -> bool {
        self.is_evictable() && self.known.is_none_or(|k| k.reset_at <= now)
    }

    /// Whether it can be forgotten without losing tokens or checks.
    pub fn is_evictable(&self) -> bool {
        let flies = self.traffic.as_ref().is_some_and(|t| t.in_flight);
        self.held == 0 && !flies && !self.has_news()
    }

    /// Whether checks wait to be sent.
    pub fn waits(&self) -> bool {
        self.traffic.as_ref().is_some_and(|t| !t.waiting.is_empty())
    }

    /// Whether there is something to be sent.
    pub fn has_news(&self) -> bool {
        self.traffic
            .as_ref()
            .is_some_and(|t| !(t.waiting.is_empty() && t.window_returns.is_empty() && t.bucket_returns.is_empty()))
    }

    /// Drops the traffic when it holds nothing.
    fn tidy(&mut self) {
        let quiet = self.traffic.as_ref().is_some_and(|t| !t.in_flight && t.flying.is_empty() && t.share.is_none());
        if quiet && !self.has_news() {
            self.traffic = None;
        }
        invariant::check(Invariant::I5NoTokenTwice, self.held == 0 || self.lot.source != 0);
    }
}

impl Traffic {
    /// Hits on their way back to the store.
    fn coming_back(&self) -> u64 {
        let windows = self.window_returns.iter().chain(&self.sent_window).map(|back| back.tokens);
        let buckets = self.bucket_returns.iter().chain(&self.sent_bucket).map(|back| back.hits);
        windows.chain(buckets).fold(0, u64::saturating_add)
    }

    /// The item is back, or lost.
    fn landed(&mut self) {
        self.in_flight = false;
        self.sent_window.clear();
        self.sent_bucket.clear();
    }
}
