//! Of an `exact` limit: a refusal was true. Whoever was refused would not have fitted, however much of what was under way is
//! counted as charged.

use std::collections::BTreeMap;

use super::Violation;
use crate::faults::{Instant, Kind};
use crate::ledger::{Asked, Counter, Ledger, Said};
use crate::plan::Plan;
use crate::run::{most, reach_us};
use crate::world::counter;
use limiter::rules::{Algorithm, Consistency, Limit, Period};

/// Windows end a little later than they must, for widths and weights are rounded up.
const ROUNDING_US: u64 = 20_000;

pub fn judge(plan: &Plan, ledger: &Ledger, found: &mut Vec<Violation>) {
    // A batch that comes twice is charged twice, and a clock that is set may keep a window for longer.
    let beside = |kind: &Kind| matches!(kind, Kind::Leap { .. } | Kind::Repeat { .. });
    if plan.faults.iter().any(|fault| beside(&fault.kind)) {
        return;
    }
    for (counter, charges) in charges(plan, ledger) {
        for (place, refused) in charges.iter().enumerate() {
            let Some((at, Said::Decided(decided))) = &refused.asked.answer else { continue };
            let said = decided.limits.iter().any(|said| said.refused && said.limit == counter.limit);
            let rules = plan.edits.iter().find(|edit| edit.book.revision == decided.revision);
            let Some(limit) = rules.and_then(|edit| edit.limits.get(counter.limit)) else { continue };
            let hits = u64::from(refused.asked.hits);
            if decided.degraded || !said || hits > most(limit) {
                continue;
            }
            let others = charges.iter().enumerate().filter(|(other, _)| *other != place).map(|(_, other)| other);
            let charged = possible(plan, limit, others, refused.asked, *at);
            if charged + hits.max(1) <= most(limit) {
                let text = format!(
                    "{hits} of user {} was refused by {}, of whose {} at most {charged} can have been charged",
                    refused.asked.user,
                    limit.name,
                    most(limit)
                );
                found.push(Violation { promise: "refusal", at: *at, text });
            }
        }
    }
}

/// What each check may have had charged, by the counters whose refusals are judged.
fn charges<'a>(plan: &Plan, ledger: &'a Ledger) -> BTreeMap<Counter, Vec<Charges<'a>>> {
    let judged = |at: usize| {
        plan.edits.iter().filter_map(|edit| edit.limits.get(at)).all(|limit| match limit.algorithm {
            // A bucket whose rate changed meanwhile counts what was charged at another one.
            Algorithm::TokenBucket => plan.edits.len() == 1,
            _ => limit.consistency == Some(Consistency::Exact),
        })
    };
    let mut all: BTreeMap<Counter, Vec<Charges<'_>>> = BTreeMap::new();
    for asked in &ledger.asked {
        for limit in plan.limits_of(asked.family).filter(|limit| judged(*limit)) {
            all.entry(counter(plan, limit, asked.user)).or_default().push(Charges::of(plan, ledger, asked));
        }
    }
    all
}

/// The most that can have been charged when it was refused, or so shortly before that the refusal was remembered.
fn possible<'a>(
    plan: &Plan,
    limit: &Limit,
    others: impl Iterator<Item = &'a Charges<'a>>,
    refused: &Asked,
    at: Instant,
) -> u64 {
    let remembered = refused.at.saturating_sub(plan.lease_us);
    let since = remembered.saturating_sub(reach_us(limit).saturating_add(ROUNDING_US));
    let others = others.filter(|other| other.asked.at <= at);
    if limit.algorithm != Algorithm::TokenBucket {
        let counts = |other: &&Charges<'_>| other.counted_by.saturating_add(2 * plan.deadline_us) >= since;
        return others.filter(counts).map(|other| other.kept + other.in_passing(remembered)).sum();
    }
    // What is missing in the bucket at the first instant at which it can have been refused: each charged as late as can be
    // until then, and with all that came later.
    let Period::Window { ms } = limit.period else { return u64::MAX };
    let rate = super::allowance::hits(limit);
    let mut charges: Vec<(Instant, u64)> = Vec::new();
    for other in others {
        // When another limit denies a check, the bucket gets its hits back, less those that its refill has absorbed.
        let absorbed = other.absorbed(plan, rate, ms * 1000);
        charges.push((other.end.min(remembered), other.kept + absorbed));
        // Nobody knows when; and a part of a hit that is owed counts as a whole one.
        charges.push((remembered, other.in_passing(remembered) + u64::from(other.asked.is_degraded())));
    }
    let step = u128::from(ms * 1000);
    charges.sort_unstable();
    let (mut missing, mut last) = (0u128, 0);
    for (when, hits) in charges {
        missing = missing.saturating_sub(u128::from(when - last) * u128::from(rate)) + u128::from(hits) * step;
        last = when;
    }
    u64::try_from(missing.div_ceil(step)).unwrap_or(u64::MAX)
}

/// Hits that a check may have had charged.
struct Charges<'a> {
    asked: &'a Asked,
    /// When it had its answer.
    end: Instant,
    /// The latest instant that they can count from.
    counted_by: Instant,
    /// By the time of its answer.
    kept: u64,
    /// Without its being told.
    unknown: u64,
    /// Until they go back, at the latest then.
    reserved: (u64, Instant),
}

impl<'a> Charges<'a> {
    fn of(plan: &Plan, ledger: &Ledger, asked: &'a Asked) -> Self {
        let hits = u64::from(asked.hits);
        let alone = plan.limits_of(asked.family).count() == 1;
        let end = asked.answer.as_ref().map_or(Instant::MAX, |(end, _)| *end);
        let some = |is: bool| if is { hits } else { 0 };
        let (kept, unknown, reserved) = match &asked.answer {
            Some((_, Said::Decided(decided))) => {
                // Who waited for as long as it could may have been charged without being told.
                let unknown = end >= asked.came + asked.within_us && !sent_in_vain(plan, ledger, asked, end);
                (some(decided.allowed), some(unknown), some(!decided.allowed && !alone && !unknown))
            }
            Some((_, Said::Overload)) if alone => (0, 0, 0),
            _ => (0, hits, 0),
        };
        // What another limit refused goes back, in time, unless that is lost.
        let back = if plan.is_certain() { end.saturating_add(3 * plan.deadline_us) } else { Instant::MAX };
        Self { asked, end, counted_by: counted_by(plan, asked, end), kept, unknown, reserved: (reserved, back) }
    }

    /// Hits of what was reserved that a bucket of this rate may have had back by itself before they went back.
    fn absorbed(&self, plan: &Plan, rate: u64, window_us: u64) -> u64 {
        if !plan.is_certain() {
            return self.reserved.0;
        }
        // It is asked, answered, asked to take back, and may be busy each time.
        let meanwhile = self.end.saturating_sub(self.asked.at).saturating_add(6 * plan.delay_us + 1000);
        let refill = (u128::from(meanwhile) * u128::from(rate)).div_ceil(u128::from(window_us));
        self.reserved.0.min(u64::try_from(refill).unwrap_or(u64::MAX))
    }

    const fn in_passing(&self, then: Instant) -> u64 {
        self.unknown + if self.reserved.1 >= then { self.reserved.0 } else { 0 }
    }
}

/// What was admitted without the store by a core that had never heard its clock counts from when it has.
fn counted_by(plan: &Plan, asked: &Asked, mut end: Instant) -> Instant {
    if asked.is_degraded() {
        for fault in plan.faults.iter().filter(|fault| fault.kind.degrades()) {
            if fault.begin <= end.saturating_add(4 * plan.deadline_us) {
                end = end.max(fault.end);
            }
        }
    }
    end
}

/// Whether all that was sent for a check came to a primary that was stopped, and went on after its time: a stall eats no limit.
fn sent_in_vain(plan: &Plan, ledger: &Ledger, other: &Asked, end: Instant) -> bool {
    if !plan.faults.iter().all(|fault| matches!(fault.kind, Kind::Stall { .. })) {
        return false;
    }
    let counters = plan.limits_of(other.family).map(|limit| counter(plan, limit, other.user));
    let primaries: Vec<usize> = counters.filter_map(|counter| ledger.primary.get(&counter).copied()).collect();
    primaries.len() == 1
        && plan.faults.iter().any(|fault| {
            let stalled = matches!(fault.kind, Kind::Stall { primary } if primaries == [primary]);
            stalled && fault.begin + plan.delay_us < other.at && end + 3 * plan.deadline_us < fault.end
        })
}
