//! A check over several limits: tokens are reserved at every key, and refunded if one limit denies.
//!
//! All or nothing holds within a **group**: all of a check, or each descriptor if the domain says `charge: each`.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use smallvec::SmallVec;

use super::groups::Groups;
use super::keys::Keys;
use crate::check::{Charging, Check, Descriptor};
use crate::ids::{LaneId, SlotId, Ticket};
use crate::key::{AskResult, KeyState, QueuedAsk, Receipt};
use crate::revision::Revision;
use crate::rules::{ApplicableLimits, Charge, EffectiveLimit, MAX_WORK, Mode, OnPartition, RuleBook, Unmatched};
use crate::time::NodeTime;

/// When to ask again while a partition lasts, in microseconds.
const RETRY_AFTER_PARTITION_US: u64 = 1_000_000;

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
    pub(super) table_full: bool,
    /// At least one limit was decided without the store.
    pub(super) degraded: bool,
    /// The store has had less time than it may need.
    pub(super) expired_early: bool,
    /// No limit matches any descriptor, and the domain denies such checks.
    pub(super) denied_by_default: bool,
    /// The steps that its limits took. Beyond [`MAX_WORK`], it is denied and charged nowhere.
    pub(super) work: usize,
    /// About the memory that it takes while it waits, with what its caller keeps of it, in bytes; 0 if it does not
    /// wait.
    pub(super) bytes: usize,
}

/// The positions of reservations that several descriptors may share.
type Shared = BTreeMap<(SlotId, usize, Charging), usize>;

/// The tokens that a check needs of one counter.
#[derive(Debug)]
pub struct Reservation {
    /// `None` if no counter is needed to decide.
    pub slot: Option<SlotId>,
    pub group: usize,
    pub hits: u64,
    pub charging: Charging,
    pub effective: Arc<EffectiveLimit>,
    pub state: ReservationState,
    /// Hits left of this node's share, if it decided without the store.
    pub local_remaining: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReservationState {
    /// Not asked yet, or not charged because another limit denied.
    NotCharged,
    /// It is asked once the limits of earlier stages of its group have granted.
    Deferred,
    Waiting,
    Done(AskResult),
}

/// When the reservations of a group are asked. Those of a later stage are charged only if none of an earlier one
/// denies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Window,
    /// A refund to a bucket can be lost to its refill.
    Bucket,
    /// An overdraft is charged for good, unless a limit without `overdraft` denies.
    Overdraft,
}

/// All stages, in order.
pub const STAGES: [Stage; 3] = [Stage::Window, Stage::Bucket, Stage::Overdraft];

impl Reservation {
    fn queue_ask(&mut self, position: usize, slot: SlotId, ticket: Ticket, key: &mut KeyState) {
        self.state = ReservationState::Waiting;
        let effective = Arc::clone(&self.effective);
        let (hits, refund) = match self.charging {
            Charging::Refund if self.effective.leased => {
                key.take_back_own(self.hits);
                (0, Some(0))
            }
            Charging::Refund => (0, Some(self.hits)),
            _ => (self.hits, None),
        };
        let overdraft = self.is_overdraft();
        key.ask(QueuedAsk { ticket, slot, reservation: position, hits, overdraft, refund, effective, resent: false });
    }

    /// True if it is charged even if it does not fit.
    pub fn is_overdraft(&self) -> bool {
        self.charging == Charging::Always
    }

    pub fn stage(&self) -> Stage {
        match self.charging {
            Charging::Always => Stage::Overdraft,
            Charging::IfAllowed if self.effective.is_bucket() => Stage::Bucket,
            Charging::IfAllowed | Charging::Refund => Stage::Window,
        }
    }

    /// What is known of its decision without the store: a limit of 0 denies, and so does a key that remembers a denial,
    /// and a limit with `on_partition: deny` while another region does not hear this one.
    fn known_denial(&self, keys: &mut Keys, now: NodeTime) -> Option<Option<NodeTime>> {
        let partitioned = keys.regions.as_ref().and_then(|regions| regions.on_partition(&self.effective));
        match self.slot {
            Some(_) if partitioned == Some(OnPartition::Deny) && self.charging == Charging::IfAllowed => {
                Some(Some(now.plus(RETRY_AFTER_PARTITION_US)))
            }
            None => (self.effective.limit == 0 && self.charging != Charging::Refund).then_some(None),
            Some(slot) if self.charging == Charging::IfAllowed => {
                keys.get_mut(slot)?.state.remembered_denial(self.hits, self.effective.terms(), now)
            }
            Some(_) => None,
        }
    }

    /// True if it asks for more hits than its limit ever grants, so that it denies its group.
    pub fn never_fits(&self) -> bool {
        self.hits > self.effective.max_grant()
            && self.charging == Charging::IfAllowed
            && self.effective.mode == Mode::Enforce
    }

    /// True if it denies its group.
    pub fn denies(&self) -> bool {
        self.effective.mode == Mode::Enforce && matches!(self.state, ReservationState::Done(AskResult::Denied(_)))
    }
}

impl PendingCheck {
    /// Finds every limit that applies to `check` and pins the keys of their counters.
    pub fn new(
        book: &RuleBook,
        check: &Check<'_>,
        lane_of: impl Fn(&[u8]) -> LaneId,
        keys: &mut Keys,
        key_buffer: &mut Vec<u8>,
    ) -> Self {
        let mut limits = ApplicableLimits::new();
        let domain = book.applicable(check, &mut limits);
        let each = domain.is_some_and(|terms| terms.charge == Charge::Each);
        let denies = domain.is_some_and(|terms| terms.default == Unmatched::Deny);
        let work = domain.map_or(0, |terms| terms.work);
        let domain = domain.map(|terms| Arc::clone(terms.name));
        let mut pending = Self { revision: book.revision, domain, work, ..Self::default() };
        if work > MAX_WORK {
            return pending;
        }
        // No two limits of one descriptor have the same counter.
        let mut shared = (check.descriptors.len() > 1).then(Shared::new);
        let mut limits = limits.into_iter().peekable();
        let hash = keys.config().hash_keys;
        for (position, descriptor) in check.descriptors.iter().enumerate() {
            let group = if each { position } else { 0 };
            let inline_limit = pending.domain.as_ref();
            let inline_limit = inline_limit.and_then(|name| book.descriptor_limit(name, descriptor));
            while let Some(limit) = limits.next_if(|limit| limit.descriptor == position) {
                if inline_limit.is_none() {
                    limit.key(descriptor, hash, key_buffer);
                    let slot = pending.slot(limit.effective, key_buffer, &lane_of, keys);
                    let reservation =
                        pending.reservation(limit.effective, slot, group, descriptor, shared.as_mut(), keys);
                    pending.add(reservation, limit.effective, position, descriptor);
                }
            }
            if let Some(effective) = inline_limit.map(Arc::new) {
                let entries = descriptor.entries.iter().flat_map(|(key, value)| [*key, *value]);
                effective.key(entries, hash, key_buffer);
                let slot = pending.slot(&effective, key_buffer, &lane_of, keys);
                let reservation = pending.reservation(&effective, slot, group, descriptor, shared.as_mut(), keys);
                pending.add(reservation, &effective, position, descriptor);
            }
        }
        pending.denied_by_default = denies && pending.reported_limits.is_empty();
        pending
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

    /// The position of the reservation of a counter in a group. It is made if there is none.
    #[inline]
    fn reservation(
        &mut self,
        effective: &Arc<EffectiveLimit>,
        slot: Option<SlotId>,
        group: usize,
        descriptor: &Descriptor<'_>,
        shared: Option<&mut Shared>,
        keys: &mut Keys,
    ) -> usize {
        let overdraft = effective.overdraft && descriptor.charging == Charging::IfAllowed;
        let charging = if overdraft { Charging::Always } else { descriptor.charging };
        let at = self.reservations.len();
        if let Some(slot) = slot {
            // Descriptors that share a counter ask for the sum.
            if let Some(shared) = shared {
                match shared.entry((slot, group, charging)) {
                    Entry::Occupied(same) => return *same.get(),
                    Entry::Vacant(entry) => entry.insert(at),
                };
            }
            // The activation of another key must not take the slot.
            keys.pin(slot);
        }
        let (effective, state) = (Arc::clone(effective), ReservationState::NotCharged);
        let (hits, local_remaining) = (0, None);
        self.reservations.push(Reservation { slot, group, hits, charging, effective, state, local_remaining });
        at
    }

    /// Adds the hits of a descriptor to a reservation.
    fn add(&mut self, at: usize, effective: &Arc<EffectiveLimit>, position: usize, descriptor: &Descriptor<'_>) {
        let reservation = &mut self.reservations[at];
        reservation.hits += u64::from(descriptor.hits);
        // Two limits that requests bring may share a counter. The sum must fit both.
        if effective.limit < reservation.effective.limit {
            reservation.effective = Arc::clone(effective);
        }
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
        let Self { reservations, waiting_count, .. } = self;
        // Denials that are known apply before anything is charged.
        for reservation in reservations.iter_mut() {
            if let Some(fits_at) = reservation.known_denial(keys, now) {
                reservation.state = ReservationState::Done(AskResult::Denied(fits_at));
            }
        }
        let denied = uncharged_groups(reservations);
        // A group that can never pass must not take hits from others meanwhile. The limit that it does not fit takes
        // none, so the store is asked what remains of it.
        let impossible: Groups = reservations.iter().filter(|r| r.never_fits()).map(|r| r.group).collect();
        // The groups that wait for a limit of an earlier stage, and those that wait for one of this stage.
        let (mut waiting, mut now_waiting) = (Groups::default(), Groups::default());
        let count = reservations.len();
        let order = STAGES.into_iter().flat_map(|stage| (0..count).map(move |at| (at, stage)));
        for (at, stage) in order {
            if at == 0 && !now_waiting.is_empty() {
                waiting.clone_from(&now_waiting);
            }
            let reservation = &mut reservations[at];
            let skip = reservation.stage() != stage || reservation.state != ReservationState::NotCharged;
            let group = reservation.group;
            let is_uncharged = || denied.contains(group) || impossible.contains(group) && !reservation.never_fits();
            if skip || reservation.charging != Charging::Refund && is_uncharged() {
                continue;
            }
            if waiting.contains(reservation.group) {
                reservation.state = ReservationState::Deferred;
                continue;
            }
            // A refund of 0 hits asks for nothing.
            let slot = reservation.slot.filter(|_| reservation.hits > 0 || reservation.charging != Charging::Refund);
            let Some((slot, key)) = slot.and_then(|slot| Some((slot, keys.get_mut(slot)?))) else {
                reservation.state = ReservationState::Done(AskResult::Granted(Receipt::Free));
                continue;
            };
            let refunds = reservation.charging == Charging::Refund;
            let terms = reservation.effective.terms();
            let paid = if refunds { None } else { key.state.spend(reservation.hits, terms, now) };
            let to_send = match paid {
                Some(receipt) => {
                    reservation.state = ReservationState::Done(AskResult::Granted(receipt));
                    key.state.wants_refill()
                }
                None => {
                    reservation.queue_ask(at, slot, ticket, &mut key.state);
                    *waiting_count += 1;
                    if reservation.effective.mode == Mode::Enforce && !refunds {
                        now_waiting.insert(reservation.group);
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

    /// Asks the deferred reservations of the next stage, in the groups that no limit has denied. Returns true if one
    /// waits now.
    fn ask_deferred(&mut self, ticket: Ticket, keys: &mut Keys, now: NodeTime) -> bool {
        let deferred = |r: &Reservation| r.state == ReservationState::Deferred;
        let Some(next) = self.reservations.iter().filter(|r| deferred(r)).map(Reservation::stage).min() else {
            return false;
        };
        // A limit that the store did not decide may deny, too.
        self.decide_without_store(keys, now);
        let Self { reservations, waiting_count, .. } = self;
        let uncharged = uncharged_groups(reservations);
        let asked = |r: &Reservation| deferred(r) && (r.stage() == next || uncharged.contains(r.group));
        for (at, reservation) in reservations.iter_mut().enumerate().filter(|(_, r)| asked(r)) {
            reservation.state = ReservationState::NotCharged;
            let key = reservation.slot.and_then(|slot| Some((slot, keys.get_mut(slot)?)));
            if let Some((slot, key)) = key.filter(|_| !uncharged.contains(reservation.group)) {
                reservation.queue_ask(at, slot, ticket, &mut key.state);
                *waiting_count += 1;
                keys.queue(slot);
            }
        }
        // Groups differ: one may have been denied at this stage, and another may wait for the stage after it.
        *waiting_count > 0 || self.ask_deferred(ticket, keys, now)
    }

    /// True if it charges hits whatever the answer is. It is then decided even if nobody waits for the answer.
    pub fn charges_always(&self) -> bool {
        self.reservations.iter().any(|r| r.is_overdraft() || r.charging == Charging::Refund)
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
pub fn denied_groups(reservations: &[Reservation]) -> Groups {
    reservations.iter().filter(|r| r.denies()).map(|r| r.group).collect()
}

/// The groups that are charged nowhere: a limit without `overdraft` denies them.
pub fn uncharged_groups(reservations: &[Reservation]) -> Groups {
    reservations.iter().filter(|r| r.denies() && !r.is_overdraft()).map(|r| r.group).collect()
}
