//! The virtual actor of one key: the tokens that it holds, the asks that wait, one item in flight, and what it
//! remembers.
//!
//! It never waits and never reads a clock. Its shard passes it what happened, and when. [`exchange`] is its talk with
//! the store.

mod exchange;

use std::sync::Arc;

use super::key_queue::KeyQueue;
use super::last_seen::LastSeen;
use super::messages::{ChargeOrigin, Context, QueuedAsk, Receipt};
use super::outage::Outage;
use super::prefetch::Prefetcher;
use crate::counter::{BucketReturn, WindowReturn};
use crate::ids::{DebtId, Incarnation, Ticket};
use crate::invariant::{self, Invariant};
use crate::rules::{EffectiveLimit, OnStoreFailure, Terms};
use crate::time::NodeTime;

/// The state of one key.
#[derive(Debug)]
pub struct KeyState {
    effective: Arc<EffectiveLimit>,
    /// Tokens in hand. All have one origin.
    held: u32,
    origin: ChargeOrigin,
    held_until: NodeTime,
    /// Hits of this key that were admitted from `origin` and not taken back.
    spent: u32,
    prefetcher: Prefetcher,
    estimate: Option<Estimate>,
    /// Boxed, because most keys have none.
    denial: Option<Box<Denial>>,
    seen: LastSeen,
    queue: Option<Box<KeyQueue>>,
}

/// What the last reply said of the limit.
#[derive(Clone, Copy, Debug)]
struct Estimate {
    /// `None` after the limit was edited.
    available: Option<u64>,
    reset_at: NodeTime,
}

/// A denial that the key remembers, so that an abuser costs at most one call to the store per lease.
#[derive(Clone, Copy, Debug)]
struct Denial {
    hits: u64,
    until: NodeTime,
    fits_at: Option<NodeTime>,
}

impl KeyState {
    /// A key that nothing is known of.
    pub const fn new(effective: Arc<EffectiveLimit>) -> Self {
        Self {
            effective,
            held: 0,
            origin: ChargeOrigin { cell_ms: 0, incarnation: Incarnation(0) },
            held_until: NodeTime(0),
            spent: 0,
            prefetcher: Prefetcher::NEW,
            estimate: None,
            denial: None,
            seen: LastSeen::Nothing,
            queue: None,
        }
    }

    /// Adopts the limit of a newer revision, or another limit that a request brought for this counter. Tokens that were
    /// taken under the old one go back, and its denial is forgotten. Returns true if the key must be flushed.
    pub fn adopt(&mut self, effective: &Arc<EffectiveLimit>) -> bool {
        let (old, new) = (self.effective.terms(), effective.terms());
        if new == old || new.revision < old.revision {
            return false;
        }
        if self.effective.limit != effective.limit || self.effective.rate != effective.rate {
            // The counter is remembered for as long as before.
            self.estimate = self.estimate.map(|estimate| Estimate { available: None, ..estimate });
        }
        self.effective = Arc::clone(effective);
        self.denial = None;
        self.release()
    }

    /// The remembered denial of `hits` under `terms`, if it still stands: when the hits would fit. For more hits
    /// than were denied it returns when the whole limit is free, a safe upper bound.
    pub fn remembered_denial(&self, hits: u64, terms: Terms, now: NodeTime) -> Option<Option<NodeTime>> {
        let stands = |d: &&Denial| now < d.until && hits.max(1) >= d.hits && terms == self.effective.terms();
        let denial = self.denial.as_deref().filter(stands)?;
        Some(match self.estimate {
            _ if hits > self.effective.max_grant() => None,
            Some(estimate) if hits > denial.hits => Some(estimate.reset_at),
            _ => denial.fits_at,
        })
    }

    /// Pays `hits` from the tokens in hand, if they cover all of them.
    pub fn spend(&mut self, hits: u64, terms: Terms, now: NodeTime) -> Option<Receipt> {
        let hits = u32::try_from(hits).ok()?;
        let covered = self.held >= hits.max(1) && now < self.held_until && terms == self.effective.terms();
        if self.has_waiting() || !covered {
            return None;
        }
        Some(self.pay(hits))
    }

    fn pay(&mut self, hits: u32) -> Receipt {
        self.held = self.held.saturating_sub(hits);
        self.spent = self.spent.saturating_add(hits);
        self.prefetcher.spend(hits);
        if hits == 0 { Receipt::Free } else { Receipt::Window(self.origin) }
    }

    /// Returns true, once for each lease, when the tokens in hand run low and the key must be flushed to get more.
    pub fn wants_refill(&mut self) -> bool {
        !self.is_in_flight() && self.prefetcher.refill(self.held)
    }

    /// Queues an ask for the store.
    pub fn ask(&mut self, ask: QueuedAsk) {
        self.queue.get_or_insert_default().push(ask);
    }

    /// Removes the asks of a check that waits no more.
    pub fn withdraw(&mut self, ticket: Ticket) {
        if let Some(queue) = &mut self.queue {
            queue.withdraw(ticket);
        }
    }

    /// Takes back hits that were granted and not used. Returns true if the key must be flushed.
    pub fn refund(&mut self, hits: u64, receipt: Receipt, now: NodeTime) -> bool {
        match receipt {
            Receipt::Free => false,
            _ if hits == 0 => false,
            Receipt::Window(origin) => {
                // It may fit now.
                self.denial = None;
                if self.origin == origin {
                    self.spent = self.spent.saturating_sub(u32::try_from(hits).unwrap_or(u32::MAX));
                }
                let in_hand = self.origin == origin && now < self.held_until;
                match u32::try_from(hits).ok().and_then(|hits| self.held.checked_add(hits)).filter(|_| in_hand) {
                    Some(held) => {
                        self.held = held;
                        false
                    }
                    None => {
                        self.return_to_window(origin, hits);
                        true
                    }
                }
            }
            Receipt::Bucket { incarnation, step, charged_at } => {
                self.denial = None;
                let back = BucketReturn { incarnation, step, hits, charged_at };
                self.queue.get_or_insert_default().return_to_bucket(back);
                true
            }
            Receipt::Local { cell_ms } => {
                if let Some(outage) = self.queue.as_mut().and_then(|q| q.outage.as_mut()) {
                    outage.give_back(cell_ms, hits);
                }
                false
            }
        }
    }

    /// Notes hits that were admitted from `origin`, which is the origin of all tokens from now on.
    fn note_spent(&mut self, origin: ChargeOrigin, hits: u64) {
        if self.origin != origin && (hits > 0 || self.held == 0) {
            self.release();
            (self.origin, self.spent) = (origin, 0);
        }
        self.spent = self.spent.saturating_add(u32::try_from(hits).unwrap_or(u32::MAX));
    }

    /// Takes `hits` back from the counter: hits that this key admitted from the newest cell that it knows, and no more.
    /// The store cannot tell hits of a leased limit from tokens that other holders hold in advance.
    pub fn take_back_own(&mut self, hits: u64) {
        let back = u32::try_from(hits).unwrap_or(u32::MAX).min(self.spent);
        self.spent -= back;
        if back > 0 {
            self.return_to_window(self.origin, back.into());
        }
    }

    /// When the tokens in hand must be given back; `None` if there are none.
    pub fn lease_end(&self) -> Option<NodeTime> {
        (self.held > 0).then_some(self.held_until)
    }

    /// Queues the tokens in hand to be given back. Returns true if the key must be flushed.
    pub fn release(&mut self) -> bool {
        self.held_until = NodeTime(0);
        let tokens = std::mem::take(&mut self.held);
        if tokens > 0 {
            self.return_to_window(self.origin, tokens.into());
        }
        tokens > 0
    }

    fn return_to_window(&mut self, origin: ChargeOrigin, tokens: u64) {
        let ChargeOrigin { cell_ms, incarnation } = origin;
        self.queue.get_or_insert_default().return_to_window(WindowReturn { cell_ms, incarnation, tokens });
    }

    /// Decides `hits` without the store, as the limit's `on_store_failure` says. `overdraft` hits that a `local` share
    /// has no room for are owed to the store all the same. `debt_id` must be random.
    pub fn decide_locally(
        &mut self,
        hits: u64,
        overdraft: bool,
        effective: &EffectiveLimit,
        cx: &Context,
        debt_id: DebtId,
    ) -> Option<Receipt> {
        if effective.is_unlimited() {
            return Some(Receipt::Free);
        }
        match effective.on_store_failure {
            OnStoreFailure::Allow => Some(Receipt::Free),
            OnStoreFailure::Deny => None,
            OnStoreFailure::Local => {
                let outage = &mut self.queue.get_or_insert_default().outage;
                let outage = outage.get_or_insert_with(|| Outage::new(effective, debt_id, cx));
                outage.admit(hits, overdraft, effective, &self.seen, cx)
            }
        }
    }

    /// Hits left of what this node may admit without the store; `None` if it may admit any number.
    pub fn local_remaining(&self, effective: &EffectiveLimit) -> Option<u64> {
        match effective.on_store_failure {
            OnStoreFailure::Allow => None,
            OnStoreFailure::Deny => Some(0),
            OnStoreFailure::Local => Some(self.queue.as_ref()?.outage.as_ref()?.left()),
        }
    }

    /// Hits left as far as this node knows; `None` if the limit is unlimited.
    pub fn remaining(&self, effective: &EffectiveLimit) -> Option<u64> {
        if effective.is_unlimited() {
            return None;
        }
        let left = self.estimate.and_then(|e| e.available).unwrap_or(effective.max_grant());
        let returning = self.queue.as_ref().map_or(0, |q| q.returning());
        Some(left.saturating_add(self.held.into()).saturating_add(returning).min(effective.max_grant()))
    }

    /// Microseconds until the whole limit is free again, as far as this node knows.
    pub fn reset(&self, now: NodeTime) -> u64 {
        self.estimate.map_or(0, |e| e.reset_at.since(now))
    }

    /// True if nothing that the key remembers matters any more.
    pub fn is_idle(&self, now: NodeTime) -> bool {
        let owes = self.queue.as_ref().and_then(|q| q.outage.as_ref()).is_some_and(|outage| !outage.is_settled(now));
        self.is_evictable() && !owes && self.estimate.is_none_or(|e| e.reset_at <= now)
    }

    /// True if the key can be evicted without losing tokens or asks. An evicted debt adds a share to its outage.
    pub fn is_evictable(&self) -> bool {
        self.held == 0 && !self.queue.as_ref().is_some_and(|q| q.is_in_flight() || q.has_asks_or_returns())
    }

    /// True if asks wait to be sent.
    pub fn has_waiting(&self) -> bool {
        self.queue.as_ref().is_some_and(|q| q.has_waiting())
    }

    fn is_in_flight(&self) -> bool {
        self.queue.as_ref().is_some_and(|q| q.is_in_flight())
    }

    /// True if there is something to send.
    pub fn needs_flush(&self) -> bool {
        self.queue.as_ref().is_some_and(|q| q.has_anything_to_send())
    }

    fn drop_empty_queue(&mut self) {
        self.queue.take_if(|q| q.is_empty());
        invariant::check(Invariant::I5NoTokenTwice, self.held == 0 || self.origin.incarnation != Incarnation(0));
    }
}

#[cfg(test)]
mod tests;
