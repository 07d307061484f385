//! The hits that a check may have charged to a counter.

use std::collections::BTreeMap;

use super::applied::applied_by;
use crate::faults::FaultKind;
use crate::history::{Answer, ClientCheck, Decided, History};
use crate::ids::{Counter, Instant};
use crate::scenario::{Applied, Plan};
use limiter::rules::Limit;

/// The hits that a check may have charged to a counter.
#[derive(Clone)]
pub struct PossibleCharge<'a> {
    pub check: &'a ClientCheck,
    /// The hits that were asked of the counter.
    pub asked: u64,
    /// The limit of the counter, if it denied them.
    pub denied_by: Option<&'a Limit>,
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
    /// Returns what a check may have charged, each time with the counter. If descriptors are charged separately, two of
    /// them may have charged the same counter.
    pub fn all(plan: &'a Plan, history: &History, check: &'a ClientCheck) -> Vec<(Counter, Self)> {
        match check.decision() {
            Some(decided) => Self::decided(plan, history, check, decided),
            None => Self::undecided(plan, check),
        }
    }

    fn decided(plan: &'a Plan, history: &History, check: &'a ClientCheck, decided: &Decided) -> Vec<(Counter, Self)> {
        let end = check.answer.as_ref().map_or(Instant::MAX, |(end, _)| *end);
        let applied = applied_by(plan, check, decided.revision);
        let counters: Vec<Counter> = applied.iter().map(|applied| applied.counter).collect();
        // A check that waited until its deadline may have been charged without a reply.
        let timed_out = end >= check.received_at + check.timeout_us;
        let is_unknown = timed_out && !expired_at_stalled_primary(plan, history, check, &counters, end);
        let has_no_room = |applied: &Applied<'_>| decided.has_no_room(applied.descriptor, applied.limit);
        let mut all: BTreeMap<(usize, Counter), Self> = BTreeMap::new();
        for it in &applied {
            let in_group = || applied.iter().filter(|other| other.group == it.group);
            let is_denied = in_group().any(|other| other.enforces() && has_no_room(other));
            let has_one_limit = in_group().all(|other| other.counter == it.counter);
            let hits_if = |condition: bool| if condition { it.hits } else { 0 };
            let charge = Self {
                asked: it.hits,
                denied_by: has_no_room(it).then_some(it.terms),
                kept: hits_if(!is_denied && !has_no_room(it)),
                unknown: hits_if(is_unknown),
                reserved: hits_if(is_denied && !has_one_limit && !is_unknown),
                ..Self::none(plan, check)
            };
            all.insert((it.group, it.counter), charge);
        }
        all.into_iter().map(|((_, counter), charge)| (counter, charge)).collect()
    }

    /// Nobody knows under which rules the check was decided, if it was.
    fn undecided(plan: &'a Plan, check: &'a ClientCheck) -> Vec<(Counter, Self)> {
        let mut most: BTreeMap<Counter, u64> = BTreeMap::new();
        for edit in &plan.edits {
            let mut asked: BTreeMap<(usize, Counter), u64> = BTreeMap::new();
            for applied in applied_by(plan, check, edit.book.revision) {
                asked.insert((applied.group, applied.counter), applied.hits);
            }
            let mut sums: BTreeMap<Counter, u64> = BTreeMap::new();
            asked.into_iter().for_each(|((_, counter), hits)| *sums.entry(counter).or_default() += hits);
            for (counter, hits) in sums {
                let most = most.entry(counter).or_default();
                *most = hits.max(*most);
            }
        }
        // A node that is overloaded asks for nothing. If several limits apply, it may have reserved some hits before.
        let is_free = most.len() == 1 && matches!(check.answer, Some((_, Answer::Overloaded)));
        let charge =
            |hits: u64| Self { unknown: if is_free { 0 } else { hits }, asked: hits, ..Self::none(plan, check) };
        most.into_iter().map(|(counter, hits)| (counter, charge(hits))).collect()
    }

    /// Returns the charge of a check that charged nothing.
    fn none(plan: &Plan, check: &'a ClientCheck) -> Self {
        let end = check.answer.as_ref().map_or(Instant::MAX, |(end, _)| *end);
        // If another limit denies the check, the hits return in time, unless the returns are lost.
        let returned_by =
            if plan.is_certain(check.core.region) { end.saturating_add(3 * plan.deadline_us) } else { Instant::MAX };
        let counts_from = counts_from(plan, check, end);
        Self { check, asked: 0, denied_by: None, end, counts_from, kept: 0, unknown: 0, reserved: 0, returned_by }
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
fn expired_at_stalled_primary(
    plan: &Plan,
    history: &History,
    check: &ClientCheck,
    counters: &[Counter],
    end: Instant,
) -> bool {
    if !plan.faults_of(check.core.region).all(|fault| matches!(fault.kind, FaultKind::Stall { .. })) {
        return false;
    }
    let primaries: Vec<_> = counters.iter().filter_map(|counter| history.primary.get(counter).copied()).collect();
    let [of] = primaries[..] else { return false };
    plan.faults_of(of.region).any(|fault| {
        let stalls = fault.kind == FaultKind::Stall { primary: of.primary };
        stalls && fault.begin + plan.delay_us < check.sent_at && end + 3 * plan.deadline_us < fault.end
    })
}
