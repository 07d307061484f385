//! The virtual actor of one key: tokens in hand, checks that wait, one item in flight, what it remembers.
//!
//! It never waits and never looks at a clock: [`crate::shard`] tells it what happened and when.

use std::sync::Arc;

use super::key_queue::Traffic;
use super::last_seen::Remembered;
use super::messages::{Applied, Flight, Lot, Outcome, Receipt, Surroundings, Waiting};
use super::outage::Outage;
use super::prefetch::Demand;
use crate::counter::{BucketReturn, Counter, Debts, Grant, Granted, Grid, Item, Prefetch, Seen, WindowReturn};
use crate::invariant::{self, Invariant};
use crate::revision::Revision;
use crate::rules::{Effective, OnStoreFailure};
use crate::time::{NodeTime, StoreTime};

/// The state of one key.
#[derive(Debug)]
pub struct KeyState {
    effective: Arc<Effective>,
    held: u32,
    lot: Lot,
    held_until: NodeTime,
    demand: Demand,
    known: Option<Known>,
    /// Most keys have none.
    refusal: Option<Box<Refusal>>,
    seen: Remembered,
    traffic: Option<Box<Traffic>>,
}

#[derive(Clone, Copy, Debug)]
struct Known {
    /// `None` once the limit is another.
    available: Option<u64>,
    reset_at: NodeTime,
}

#[derive(Clone, Copy, Debug)]
struct Refusal {
    hits: u64,
    until: NodeTime,
    fits_at: Option<NodeTime>,
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
            // What was seen is as old as before, and to be remembered for as long.
            self.known = self.known.map(|known| Known { available: None, ..known });
        }
        self.effective = Arc::clone(effective);
        self.refusal = None;
        self.release()
    }

    /// The remembered refusal of `hits` under `revision`, if it still stands: when they would fit. More than were refused
    /// are told of the instant when all is free again, which is never too early.
    pub fn refuses(&self, hits: u64, revision: Revision, now: NodeTime) -> Option<Option<NodeTime>> {
        let stands = |r: &&Refusal| now < r.until && hits.max(1) >= r.hits && revision == self.effective.revision;
        let refusal = self.refusal.as_deref().filter(stands)?;
        Some(match self.known {
            _ if hits > self.effective.most() => None,
            Some(known) if hits > refusal.hits => Some(known.reset_at),
            _ => refusal.fits_at,
        })
    }

    /// Pays `hits` from the tokens in hand.
    pub fn spend(&mut self, hits: u64, revision: Revision, now: NodeTime) -> Option<Receipt> {
        let hits = u32::try_from(hits).ok()?;
        if self.waits() || self.held < hits.max(1) || now >= self.held_until || revision != self.effective.revision {
            return None;
        }
        self.held -= hits;
        self.demand.spend(hits);
        Some(if hits == 0 { Receipt::Free } else { Receipt::Window(self.lot) })
    }

    /// Whether the tokens in hand run low and more should be asked for ahead of need.
    pub fn wants_refill(&mut self) -> bool {
        !self.is_in_flight() && self.demand.refill(self.held)
    }

    /// Queues a part for the store.
    pub fn ask(&mut self, waiting: Waiting) {
        self.traffic.get_or_insert_default().ask(waiting);
    }

    /// A check waits no more.
    pub fn withdraw(&mut self, ticket: u64) {
        if let Some(traffic) = &mut self.traffic {
            traffic.withdraw(ticket);
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
                        self.traffic.get_or_insert_default().give_back_to_window(back);
                        true
                    }
                }
            }
            Receipt::Bucket { incarnation, step, at } => {
                let back = BucketReturn { incarnation, step, hits, charged_at: at };
                self.traffic.get_or_insert_default().give_back_to_bucket(back);
                true
            }
            Receipt::Local { cell_ms } => {
                if let Some(outage) = self.traffic.as_mut().and_then(|t| t.outage.as_mut()) {
                    outage.give_back(cell_ms, hits);
                }
                false
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
            self.traffic.get_or_insert_default().give_back_to_window(back);
        }
        tokens > 0
    }

    /// The next item for the store, if there is anything to say.
    pub fn item(&mut self, key: &[u8], around: &Surroundings) -> Option<Item> {
        let waits = self.waits();
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
        traffic.outage.take_if(|outage| outage.is_settled(around.now));
        if let Some(outage) = &mut traffic.outage {
            outage.place(&self.effective, around);
        }
        let owes = traffic.outage.as_ref().is_some_and(Outage::is_unreported);
        let demand = &mut self.demand;
        let (effective, asks) =
            traffic.board(&self.effective, |hits| demand.spend(u32::try_from(hits).unwrap_or(u32::MAX)));
        let counter = if effective.is_bucket() {
            let seen = self.seen.bucket();
            let owed = traffic.outage.as_mut().map_or(0, |outage| outage.report_hits(around.store_now));
            let returns = traffic.send_to_bucket();
            Counter::Bucket { rate: effective.rate, revision: effective.revision, seen, owed, returns }
        } else {
            // Time never goes back behind what was seen of the key. Where no calendar reaches, no store can be either.
            let at = around.store_now.max(StoreTime::from_millis(self.seen.newest_ms()));
            let grid = effective.grid(at).unwrap_or(Grid::Calendar { bounds: [0; 4] });
            let seen = self.seen.cells();
            let reports = traffic.outage.as_mut().map(Outage::report).unwrap_or_default();
            let (seen_in, debts_seen) = self.seen.debts();
            let debts = Debts { seen_in, seen: debts_seen, reports };
            let lease = Prefetch { want, holders: around.holders, min_left: around.lease_us / 16 };
            let same_rules = effective.revision == self.effective.revision;
            let lease = Some(lease).filter(|_| same_rules && want > 0);
            Counter::Window { grid, limit: effective.limit, seen, returns: traffic.send_to_window(), debts, lease }
        };
        let nothing = match &counter {
            Counter::Window { returns, lease, .. } => returns.is_empty() && lease.is_none(),
            Counter::Bucket { returns, .. } => returns.is_empty(),
        };
        if asks.is_empty() && nothing && !owes {
            self.tidy();
            return None;
        }
        traffic.take_off(effective.revision);
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
        let (flying, revision) = traffic.answered(grant.reported);
        let same_rules = revision == self.effective.revision;
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
            self.refusal = refusal.map(Box::new);
            let reset_at = around.now.plus(waits(grant.reset_at));
            self.known = Some(Known { available: Some(grant.available), reset_at });
        }
        if let Seen::Window { cell_end_ms, .. } = &grant.seen
            && grant.lease > 0
        {
            let ends_us = waits(StoreTime::from_millis(*cell_end_ms));
            self.lease(grant.lease, lot, flight.sent.plus(around.lease_us.min(ends_us)), same_rules, around.now);
        }
        if let (Seen::Window { debts, .. }, Some(outage)) =
            (&grant.seen, self.traffic.as_mut().and_then(|traffic| traffic.outage.as_mut()))
        {
            outage.heard(debts);
        }
        self.seen = grant.seen.into();
        self.pay_waiting(around.now, out);
        self.tidy();
        self.has_news()
    }

    /// Checks that came while the item was in flight are paid from the lease that it brought, in order, as far as that
    /// lasts: under load some have always come, and would send the lease back with the next item.
    fn pay_waiting(&mut self, now: NodeTime, out: &mut Vec<(Waiting, Outcome)>) {
        if now >= self.held_until {
            return;
        }
        let Some(traffic) = self.traffic.as_mut() else { return };
        while let Some(next) = traffic.next_within(self.held.into(), self.effective.revision) {
            let hits = u32::try_from(next.hits).unwrap_or(u32::MAX);
            self.held = self.held.saturating_sub(hits);
            self.demand.spend(hits);
            let receipt = if hits == 0 { Receipt::Free } else { Receipt::Window(self.lot) };
            out.push((next, Outcome::Granted(receipt)));
        }
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
    pub fn resend(&mut self, out: &mut Vec<(Waiting, Outcome)>) {
        if let Some(traffic) = &mut self.traffic {
            traffic.resend(out);
        }
        self.tidy();
    }

    /// No answer came.
    pub fn fail(&mut self, applied: Applied, out: &mut Vec<(Waiting, Outcome)>) {
        if let Some(traffic) = &mut self.traffic {
            traffic.fail(applied, out);
        }
        self.tidy();
    }

    /// Nothing can be sent: the store does not decide for those who wait.
    pub fn fail_waiting(&mut self, out: &mut Vec<(Waiting, Outcome)>) {
        if let Some(traffic) = &mut self.traffic {
            traffic.fail_waiting(out);
        }
        self.tidy();
    }

    /// Decides `hits` without the store, as the limit's `on_store_failure` says. `debtor` is random: a name for what is
    /// admitted on this node's own account.
    pub fn decide_alone(
        &mut self,
        hits: u64,
        effective: &Effective,
        around: &Surroundings,
        debtor: u64,
    ) -> Option<Receipt> {
        if effective.is_unlimited() {
            return Some(Receipt::Free);
        }
        match effective.on_store_failure {
            OnStoreFailure::Allow => Some(Receipt::Free),
            OnStoreFailure::Deny => None,
            OnStoreFailure::Local => {
                let outage = &mut self.traffic.get_or_insert_default().outage;
                let outage = outage.get_or_insert_with(|| Outage::new(effective, debtor, around));
                outage.admit(hits, effective, &self.seen, around)
            }
        }
    }

    /// Hits left of what this node may admit without the store; `None` where it may admit any number.
    pub fn left_alone(&self, effective: &Effective) -> Option<u64> {
        match effective.on_store_failure {
            OnStoreFailure::Allow => None,
            OnStoreFailure::Deny => Some(0),
            OnStoreFailure::Local => Some(self.traffic.as_ref()?.outage.as_ref()?.left()),
        }
    }

    /// Hits left as far as this node knows; `None` for unlimited.
    pub fn remaining(&self, effective: &Effective) -> Option<u64> {
        if effective.is_unlimited() {
            return None;
        }
        let left = self.known.and_then(|k| k.available).unwrap_or(effective.most());
        let coming_back = self.traffic.as_ref().map_or(0, |t| t.coming_back());
        Some(left.saturating_add(self.held.into()).saturating_add(coming_back).min(effective.most()))
    }

    /// Microseconds until the whole limit is free again, as far as this node knows.
    pub fn reset(&self, now: NodeTime) -> u64 {
        self.known.map_or(0, |k| k.reset_at.since(now))
    }

    /// Whether nothing that it remembers matters any more.
    pub fn is_idle(&self, now: NodeTime) -> bool {
        let owes = self.traffic.as_ref().and_then(|t| t.outage.as_ref()).is_some_and(|outage| !outage.is_settled(now));
        self.is_evictable() && !owes && self.known.is_none_or(|k| k.reset_at <= now)
    }

    /// Whether it can be forgotten without losing tokens or checks. Forgetting what it owes adds a share to an outage.
    pub fn is_evictable(&self) -> bool {
        self.held == 0 && !self.traffic.as_ref().is_some_and(|t| t.is_in_flight() || t.is_needed())
    }

    /// Whether checks wait to be sent.
    pub fn waits(&self) -> bool {
        self.traffic.as_ref().is_some_and(|t| t.waits())
    }

    fn is_in_flight(&self) -> bool {
        self.traffic.as_ref().is_some_and(|t| t.is_in_flight())
    }

    /// Whether there is something to be sent.
    pub fn has_news(&self) -> bool {
        self.traffic.as_ref().is_some_and(|t| t.has_news())
    }

    /// Drops the traffic when it holds nothing.
    fn tidy(&mut self) {
        self.traffic.take_if(|t| t.is_quiet());
        invariant::check(Invariant::I5NoTokenTwice, self.held == 0 || self.lot.source != 0);
    }
}
