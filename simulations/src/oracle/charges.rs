//! The hits that a check may have charged to a counter.

use crate::faults::FaultKind;
use crate::history::{Answer, ClientCheck, History};
use crate::ids::Instant;
use crate::scenario::Plan;

/// The hits that a check may have charged.
pub struct PossibleCharge<'a> {
    pub check: &'a ClientCheck,
    /// When the check was answered.
    pub end: Instant,
    /// The latest time from which the hits can count.
    pub counts_from: Instant,
    /// The hits that were charged when the check was answered.
    pub kept: u64,
    /// The hits that may be charged although no reply confirmed it.
    unknown: u64,
    /// The hits that were reserved and return later.
    reserved: u64,
    /// The latest time at which the reserved hits return.
    returned_by: Instant,
}

impl<'a> PossibleCharge<'a> {
    pub fn new(plan: &Plan, history: &History, check: &'a ClientCheck) -> Self {
        let hits = u64::from(check.hits);
        let has_one_limit = plan.limits_of(check.limit_set).count() == 1;
        let end = check.answer.as_ref().map_or(Instant::MAX, |(end, _)| *end);
        let hits_if = |condition: bool| if condition { hits } else { 0 };
        let (kept, unknown, reserved) = match &check.answer {
            Some((_, Answer::Decided(decided))) => {
                // A check that waited until its deadline may have been charged without a reply.
                let timed_out = end >= check.received_at + check.timeout_us;
                let is_unknown = timed_out && !expired_at_stalled_primary(plan, history, check, end);
                let is_reserved = !decided.allowed && !has_one_limit && !is_unknown;
                (hits_if(decided.allowed), hits_if(is_unknown), hits_if(is_reserved))
            }
            Some((_, Answer::Overloaded)) if has_one_limit => (0, 0, 0),
            _ => (0, hits, 0),
        };
        // If another limit denies the check, the hits return in time, unless the returns are lost.
        let returned_by =
            if plan.is_certain(check.core.region) { end.saturating_add(3 * plan.deadline_us) } else { Instant::MAX };
        Self { check, end, counts_from: counts_from(plan, check, end), kept, unknown, reserved, returned_by }
    }

    /// Returns how many of the reserved hits a bucket of this rate may have refilled by itself before they returned.
    pub fn absorbed(&self, plan: &Plan, rate: u64, window_us: u64) -> u64 {
        if !plan.is_certain(self.check.core.region) {
            return self.reserved;
        }
        // The request, its reply and the return each take a delay, and each may wait because the lane is busy.
        let duration = self.end.saturating_sub(self.check.sent_at).saturating_add(6 * plan.delay_us + 1000);
        let refill = (u128::from(duration) * u128::from(rate)).div_ceil(u128::from(window_us));
        self.reserved.min(u64::try_from(refill).unwrap_or(u64::MAX))
    }

    /// Returns the hits beyond `kept` that may be charged at a time.
    pub const fn temporary(&self, at: Instant) -> u64 {
        self.unknown + if self.returned_by >= at { self.reserved } else { 0 }
    }
}

/// Returns the latest time from which the hits of a check can count. If a core that never had a reading of the store's
/// clock admits hits without the store, they count from the time at which it gets one.
fn counts_from(plan: &Plan, check: &ClientCheck, mut end: Instant) -> Instant {
    if check.is_degraded() {
        for fault in plan.faults_of(check.core.region).filter(|fault| fault.kind.degrades()) {
            if fault.begin <= end.saturating_add(4 * plan.deadline_us) {
                end = end.max(fault.end);
            }
        }
    }
    end
}

/// True if every batch of the check reached a stalled primary and expired before that primary went on: a stall must not
/// consume the limit.
fn expired_at_stalled_primary(plan: &Plan, history: &History, check: &ClientCheck, end: Instant) -> bool {
    if !plan.faults_of(check.core.region).all(|fault| matches!(fault.kind, FaultKind::Stall { .. })) {
        return false;
    }
    let counters = plan.limits_of(check.limit_set).map(|limit| plan.counter(check.core.region, limit, check.user));
    let primaries: Vec<_> = counters.filter_map(|counter| history.primary.get(&counter).copied()).collect();
    let [of] = primaries[..] else { return false };
    plan.faults_of(of.region).any(|fault| {
        let stalls = fault.kind == FaultKind::Stall { primary: of.primary };
        stalls && fault.begin + plan.delay_us < check.sent_at && end + 3 * plan.deadline_us < fault.end
    })
}
