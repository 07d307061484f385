//! The decision of a check whose reservations are all known.

use std::sync::Arc;

use super::keys::Keys;
use super::pending_check::{PendingCheck, Reservation, ReservationState, STAGES, denied_groups, uncharged_groups};
use crate::check::Charging;
use crate::decision::{Decision, LimitStatus};
use crate::ids::LaneId;
use crate::invariant::{self, Invariant};
use crate::key::{AskResult, Receipt};
use crate::rules::{MAX_WORK, Mode, OnStoreFailure};
use crate::time::NodeTime;

impl PendingCheck {
    /// Treats what still waits as undecided: the deadline of the check has passed. `early`: the store has had less time
    /// than it may need.
    pub fn expire(&mut self, early: bool) {
        self.expired_early = early;
        for reservation in &mut self.reservations {
            if matches!(reservation.state, ReservationState::Waiting | ReservationState::Deferred) {
                reservation.state = ReservationState::Done(AskResult::Undecided);
            }
        }
    }

    /// Makes the decision. The reservations of a denied group go back, except for overdrafts.
    pub fn settle(mut self, keys: &mut Keys, now: NodeTime) -> Decision {
        self.decide_without_store(keys, now);
        self.deny_what_never_fits(keys, now);
        let denied = denied_groups(&self.reservations);
        let goes_back = |r: &&mut Reservation| denied.contains(r.group) && r.charging == Charging::IfAllowed;
        for reservation in self.reservations.iter_mut().filter(goes_back) {
            if let (ReservationState::Done(AskResult::Granted(receipt)), Some(slot)) =
                (reservation.state, reservation.slot)
            {
                reservation.state = ReservationState::NotCharged;
                keys.refund(slot, reservation.hits, receipt, now);
            }
        }
        let granted = |r: &Reservation| matches!(r.state, ReservationState::Done(AskResult::Granted(_)));
        let charged_in_denied_group = |r: &Reservation| {
            r.slot.is_some() && granted(r) && denied.contains(r.group) && r.charging == Charging::IfAllowed
        };
        invariant::check(Invariant::I4AllOrNothing, !self.reservations.iter().any(charged_in_denied_group));
        let reported_limits =
            self.reported_limits.iter().map(|(at, descriptor)| (&self.reservations[*at], *descriptor));
        let limits: Vec<LimitStatus> =
            reported_limits.map(|(reservation, descriptor)| status(reservation, descriptor, keys, now)).collect();
        let waits = || limits.iter().filter(|l| l.denied && !l.shadow).map(|l| l.retry_after);
        // The longest wait of all. No wait helps if one limit will never grant.
        let retry_after = waits().collect::<Option<Vec<u64>>>().and_then(|waits| waits.into_iter().max());
        let regions = keys.regions.as_ref();
        let by_partition =
            |r: &Reservation| regions.is_some_and(|regions| regions.on_partition(&r.effective).is_some());
        let partitioned = self.reservations.iter().any(by_partition);
        let Self { revision, domain, degraded, denied_by_default, work, .. } = self;
        let too_much_work = work > MAX_WORK;
        Decision {
            allowed: denied.is_empty() && !denied_by_default && !too_much_work,
            degraded,
            partitioned,
            revision,
            domain,
            retry_after,
            identity: None,
            too_much_work,
            limits,
        }
    }

    /// Denies hits that never fit their limit, although the store granted them: it decides for a bucket under the
    /// newest rules, and this check is decided under its own. No other limit of the group was asked for its hits.
    fn deny_what_never_fits(&mut self, keys: &mut Keys, now: NodeTime) {
        for reservation in self.reservations.iter_mut().filter(|r| r.never_fits()) {
            if let ReservationState::Done(AskResult::Granted(receipt)) = reservation.state {
                if let Some(slot) = reservation.slot {
                    keys.refund(slot, reservation.hits, receipt, now);
                }
                reservation.state = ReservationState::Done(AskResult::Denied(None));
            }
        }
    }

    /// Decides what the store did not, as each limit's `on_store_failure` says.
    pub(super) fn decide_without_store(&mut self, keys: &mut Keys, now: NodeTime) {
        if !self.reservations.iter().any(|r| r.state == ReservationState::Done(AskResult::Undecided)) {
            return;
        }
        // If another limit denies for sure, this node need not admit anything locally. Only a limit without overdraft
        // keeps an overdraft from being charged.
        let (mut denied, mut uncharged) = (denied_groups(&self.reservations), uncharged_groups(&self.reservations));
        let count = self.reservations.len();
        for (at, stage) in STAGES.into_iter().flat_map(|stage| (0..count).map(move |at| (at, stage))) {
            let reservation = &mut self.reservations[at];
            if reservation.state != ReservationState::Done(AskResult::Undecided) || reservation.stage() != stage {
                continue;
            }
            self.degraded = true;
            let early = self.expired_early;
            let decisive = if reservation.is_overdraft() { &uncharged } else { &denied };
            reservation.state = if decisive.contains(reservation.group) {
                ReservationState::NotCharged
            } else {
                decide_locally(reservation, early, keys, now)
            };
            if reservation.denies() {
                denied.insert(reservation.group);
                if !reservation.is_overdraft() {
                    uncharged.insert(reservation.group);
                }
            }
        }
    }
}

fn decide_locally(reservation: &mut Reservation, early: bool, keys: &mut Keys, now: NodeTime) -> ReservationState {
    let debt_id = keys.new_debt_id();
    let slot = reservation.slot;
    let lane = slot.and_then(|slot| Some(keys.get_mut(slot)?.lane)).unwrap_or(LaneId(0));
    let cx = keys.context(lane, now);
    let Some((slot, key)) = slot.and_then(|slot| Some((slot, keys.get_mut(slot)?))) else {
        return ReservationState::NotCharged;
    };
    if reservation.charging == Charging::Refund {
        // Nobody can take hits back from a store that does not answer.
        return ReservationState::Done(AskResult::Granted(Receipt::Free));
    }
    if reservation.never_fits() {
        return ReservationState::Done(AskResult::Denied(None));
    }
    let allows = reservation.effective.on_store_failure == OnStoreFailure::Allow;
    if early && allows && !reservation.effective.is_unlimited() {
        return ReservationState::Done(AskResult::Denied(Some(now.plus(cx.lease_us))));
    }
    let overdraft = reservation.is_overdraft();
    let receipt = key.state.decide_locally(reservation.hits, overdraft, &reservation.effective, &cx, debt_id);
    reservation.local_remaining = key.state.local_remaining(&reservation.effective);
    if matches!(receipt, Some(Receipt::Local { .. })) || overdraft {
        keys.queue_after_failure(slot);
    }
    ReservationState::Done(match receipt {
        Some(receipt) => AskResult::Granted(receipt),
        // A retry makes sense after one lease time: the store may reply again by then.
        None if reservation.hits <= reservation.effective.max_grant() => AskResult::Denied(Some(now.plus(cx.lease_us))),
        None => AskResult::Denied(None),
    })
}

fn status(reservation: &Reservation, descriptor: usize, keys: &mut Keys, now: NodeTime) -> LimitStatus {
    let effective = &reservation.effective;
    let key = reservation.slot.and_then(|slot| keys.get_mut(slot));
    let without_counter = if effective.limit == 0 { Some(0) } else { None };
    let (denied, fits_at) = match reservation.state {
        ReservationState::Done(AskResult::Denied(fits_at)) => (true, fits_at),
        _ => (false, None),
    };
    let remaining = match &key {
        Some(key) => reservation.local_remaining.or_else(|| key.state.remaining(effective)),
        None => without_counter,
    };
    // The store's last reply may have counted hits that went back since.
    let whole = remaining == Some(effective.max_grant());
    LimitStatus {
        effective: Arc::clone(effective),
        descriptor,
        remaining,
        reset: key.filter(|_| !whole).map_or(0, |key| key.state.reset(now)),
        denied,
        retry_after: fits_at.map(|at| at.since(now)),
        shadow: effective.mode == Mode::Shadow,
    }
}
