//! A check over several limits: tokens are reserved at every key, and refunded if one limit denies.
//!
//! All or nothing holds within a **group**: all of a check, or each descriptor if the domain says `charge: each`.

use std::sync::Arc;

use smallvec::SmallVec;

use super::keys::Keys;
use crate::check::{Check, Descriptor};
use crate::ids::{LaneId, SlotId, Ticket};
use crate::key::{AskResult, KeyState, QueuedAsk, Receipt};
use crate::revision::Revision;
use crate::rules::{ApplicableLimits, Charge, EffectiveLimit, Mode, RuleBook, descriptor_limit, push_values};
use crate::time::NodeTime;

/// A check with the limits that apply to it.
#[derive(Debug, Default)]
pub struct PendingCheck {
    pub(super) revision: Revision,
    pub(super) domain: Option<Arc<str>>,
    pub(super) reservations: SmallVec<[Reservation; 1]>,
    /// The limits to report, in order: the position of a reservation, and of the descriptor that it applies to.
    pub(super) reported_limits: SmallVec<[(usize, usize); 2]>,
    /// The number of reservations that wait for the store.
    waiting_count: usize,
    /// A counter found no room in the table.
    table_full: bool,
    /// At least one limit was decided without the store.
    pub(super) degraded: bool,
}

/// The tokens that a check needs of one counter.
#[derive(Debug)]
pub struct Reservation {
    /// `None` if no counter is needed to decide.
    pub slot: Option<SlotId>,
    pub group: usize,
    pub hits: u64,
    pub effective: Arc<EffectiveLimit>,
    pub state: ReservationState,
    /// Hits left of this node's share, if it decided without the store.
    pub local_remaining: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationState {
    /// Not asked yet, or not charged because another limit denied.
    NotCharged,
    /// A bucket is asked once the other limits of its group have granted. A refund to a bucket can be lost to its
    /// refill, so a bucket is charged only if no other limit denies.
    Deferred,
    Waiting,
    Done(AskResult),
}

impl Reservation {
    fn queue_ask(&mut self, position: usize, slot: SlotId, ticket: Ticket, key: &mut KeyState) {
        self.state = ReservationState::Waiting;
        let effective = Arc::clone(&self.effective);
        key.ask(QueuedAsk { ticket, slot, reservation: position, hits: self.hits, effective, resent: false });
    }

    /// True if it denies its group.
    pub fn denies(&self) -> bool {
        self.effective.mode == Mode::Enforce && matches!(self.state, ReservationState::Done(AskResult::Denied(_)))
    }
}

impl PendingCheck {
    /// Finds every limit that applies to `check` and pins the keys of their counters. `None` if no more keys can be
    /// held.
    pub fn new(
        book: &RuleBook,
        check: &Check<'_>,
        lane_of: impl Fn(&[u8]) -> LaneId,
        keys: &mut Keys,
        key_buffer: &mut Vec<u8>,
    ) -> Option<Self> {
        let mut limits = ApplicableLimits::new();
        let domain = book.applicable(check, &mut limits);
        let each = domain.is_some_and(|(_, charge)| charge == Charge::Each);
        let domain = domain.map(|(name, _)| Arc::clone(name));
        let mut pending = Self { revision: book.revision, domain, ..Self::default() };
        let mut limits = limits.into_iter().peekable();
        for (position, descriptor) in check.descriptors.iter().enumerate() {
            let group = if each { position } else { 0 };
            let inline_limit = descriptor.limit.as_ref().zip(pending.domain.as_ref());
            let inline_limit = inline_limit
                .map(|((limit, period), name)| descriptor_limit(name, *limit, period.clone(), book.revision));
            while let Some(limit) = limits.next_if(|limit| limit.descriptor == position) {
                if inline_limit.is_none() {
                    let values = limit.per.iter().map(|key| descriptor.value(key).unwrap_or_default());
                    limit.effective.key(values, key_buffer);
                    let slot = pending.slot(limit.effective, key_buffer, &lane_of, keys);
                    pending.add(limit.effective, slot, group, position, descriptor, keys);
                }
            }
            if let Some(effective) = inline_limit.map(Arc::new) {
                key_buffer.clear();
                key_buffer.extend_from_slice(&effective.key_prefix);
                push_values(key_buffer, descriptor.entries.iter().flat_map(|(key, value)| [*key, *value]));
                let slot = pending.slot(&effective, key_buffer, &lane_of, keys);
                pending.add(&effective, slot, group, position, descriptor, keys);
            }
        }
        if pending.table_full {
            pending.unpin(keys);
            return None;
        }
        Some(pending)
    }

    /// The slot of a limit's counter; `None` if the limit needs none, or if the table is full.
    fn slot(
        &mut self,
        effective: &Arc<EffectiveLimit>,
        name: &[u8],
        lane_of: impl Fn(&[u8]) -> LaneId,
        keys: &mut Keys,
    ) -> Option<SlotId> {
        if effective.is_static() {
            return None;
        }
        let slot = keys.activate(effective, name, lane_of);
        self.table_full |= slot.is_none();
        slot
    }

    fn add(
        &mut self,
        effective: &Arc<EffectiveLimit>,
        slot: Option<SlotId>,
        group: usize,
        position: usize,
        descriptor: &Descriptor<'_>,
        keys: &mut Keys,
    ) {
        // Descriptors that share a counter ask for the sum.
        let shared = self.reservations.iter().position(|r| slot.is_some() && r.slot == slot && r.group == group);
        let at = shared.unwrap_or_else(|| {
            // The activation of another key must not take the slot.
            if let Some(slot) = slot {
                keys.pin(slot);
            }
            let (effective, state) = (Arc::clone(effective), ReservationState::NotCharged);
            self.reservations.push(Reservation { slot, group, hits: 0, effective, state, local_remaining: None });
            self.reservations.len() - 1
        });
        self.reservations[at].hits += u64::from(descriptor.hits);
        self.reported_limits.push((at, position));
    }

    pub fn unpin(&self, keys: &mut Keys) {
        for slot in self.reservations.iter().filter_map(|r| r.slot) {
            keys.unpin(slot);
        }
    }

    /// Takes the tokens of every reservation from its key, or queues an ask there. Returns true if one waits for the
    /// store.
    pub fn reserve(&mut self, ticket: Ticket, keys: &mut Keys, now: NodeTime) -> bool {
        let Self { revision, reservations, waiting_count, .. } = self;
        // Remembered denials apply before anything is charged.
        for reservation in reservations.iter_mut() {
            let denial = match reservation.slot {
                None => (reservation.effective.limit == 0).then_some(None),
                Some(slot) => {
                    keys.get_mut(slot).and_then(|key| key.state.remembered_denial(reservation.hits, *revision, now))
                }
            };
            if let Some(fits_at) = denial {
                reservation.state = ReservationState::Done(AskResult::Denied(fits_at));
            }
        }
        let denied = denied_groups(reservations);
        let mut waiting_groups = Vec::new();
        // Windows first.
        let count = reservations.len();
        let order = [false, true].into_iter().flat_map(|buckets| (0..count).map(move |at| (at, buckets)));
        for (at, buckets) in order {
            let reservation = &mut reservations[at];
            let skip =
                reservation.effective.is_bucket() != buckets || reservation.state != ReservationState::NotCharged;
            if skip || denied.contains(&reservation.group) {
                continue;
            }
            if buckets && waiting_groups.contains(&reservation.group) {
                reservation.state = ReservationState::Deferred;
                continue;
            }
            let Some((slot, key)) = reservation.slot.and_then(|slot| Some((slot, keys.get_mut(slot)?))) else {
                reservation.state = ReservationState::Done(AskResult::Granted(Receipt::Free));
                continue;
            };
            let to_send = match key.state.spend(reservation.hits, *revision, now) {
                Some(receipt) => {
                    reservation.state = ReservationState::Done(AskResult::Granted(receipt));
                    key.state.wants_refill()
                }
                None => {
                    reservation.queue_ask(at, slot, ticket, &mut key.state);
                    *waiting_count += 1;
                    if !buckets && reservation.effective.mode == Mode::Enforce {
                        waiting_groups.push(reservation.group);
                    }
                    true
                }
            };
            if to_send {
                keys.queue(slot);
            }
        }
        *waiting_count > 0
    }

    /// Records what the store decided about one reservation. Returns true if the check waits for nothing more.
    pub fn complete(
        &mut self,
        position: usize,
        result: AskResult,
        ticket: Ticket,
        keys: &mut Keys,
        now: NodeTime,
    ) -> bool {
        let Some(reservation) = self.reservations.get_mut(position) else { return false };
        reservation.state = ReservationState::Done(result);
        self.waiting_count -= 1;
        self.waiting_count == 0 && !self.ask_deferred(ticket, keys, now)
    }

    /// Asks the buckets of groups that no limit has denied. Returns true if one waits now.
    fn ask_deferred(&mut self, ticket: Ticket, keys: &mut Keys, now: NodeTime) -> bool {
        if self.reservations.iter().any(|r| r.state == ReservationState::Deferred) {
            // A window that the store did not decide may deny, too.
            self.decide_without_store(keys, now);
        }
        let Self { reservations, waiting_count, .. } = self;
        let denied = denied_groups(reservations);
        let deferred = |r: &&mut Reservation| r.state == ReservationState::Deferred;
        for (at, reservation) in reservations.iter_mut().enumerate().filter(|(_, r)| deferred(r)) {
            reservation.state = ReservationState::NotCharged;
            let key = reservation.slot.and_then(|slot| Some((slot, keys.get_mut(slot)?)));
            if let Some((slot, key)) = key.filter(|_| !denied.contains(&reservation.group)) {
                reservation.queue_ask(at, slot, ticket, &mut key.state);
                *waiting_count += 1;
                keys.queue(slot);
            }
        }
        *waiting_count > 0
    }

    /// Stops waiting for the store. Tokens of a reply that comes later are returned.
    pub fn abandon(&self, ticket: Ticket, keys: &mut Keys) {
        self.unpin(keys);
        let waiting = self.reservations.iter().filter(|r| r.state == ReservationState::Waiting);
        for slot in waiting.filter_map(|r| r.slot) {
            if let Some(key) = keys.get_mut(slot) {
                key.state.withdraw(ticket);
            }
        }
    }

    /// Refunds what was reserved.
    pub fn refund(self, keys: &mut Keys, now: NodeTime) {
        for reservation in self.reservations {
            if let (ReservationState::Done(AskResult::Granted(receipt)), Some(slot)) =
                (reservation.state, reservation.slot)
            {
                keys.refund(slot, reservation.hits, receipt, now);
            }
        }
    }
}

/// The groups that a limit denies.
pub fn denied_groups(reservations: &[Reservation]) -> Vec<usize> {
    reservations.iter().filter(|r| r.denies()).map(|r| r.group).collect()
}
