//! Of an `exact` limit: a refusal was true. Whoever was refused would not have fitted, however much of what was under way is
//! counted as charged.

use super::Violation;
use super::allowance::Allowance;
use crate::limiter::rule::{Algorithm, Consistency, Limit, Period};
use crate::simulations::faults::{Instant, Kind};
use crate::simulations::ledger::{Asked, Counter, Ledger, Said};
use crate::simulations::plan::Plan;
use crate::simulations::run::{most, reach_us};
use crate::simulations::world::counter;

/// Windows end a little later than they must, for widths and weights are rounded up.
const ROUNDING_US: u64 = 20_000;

pub fn judge(plan: &Plan, ledger: &Ledger, found: &mut Vec<Violation>) {
    let leaps = plan.faults.iter().any(|fault| matches!(fault.kind, Kind::Leap { .. }));
    if Allowance::repeats(plan) || leaps {
        return;
    }
    for asked in &ledger.asked {
        let Some((at, Said::Decided(decided))) = &asked.answer else { continue };
        if decided.degraded {
            continue;
        }
        for said in decided.limits.iter().filter(|said| said.refused) {
            let rules = plan.edits.iter().find(|edit| edit.book.revision == decided.revision);
            let Some(limit) = rules.and_then(|edit| edit.limits.get(said.limit)) else { continue };
            let exact = limit.algorithm == Algorithm::TokenBucket || limit.consistency == Some(Consistency::Exact);
            // A bucket whose rate changed meanwhile counts what was charged at another one.
            let judged = exact && (limit.algorithm != Algorithm::TokenBucket || plan.edits.len() == 1);
            if !judged || u64::from(asked.hits) > most(limit) {
                continue;
            }
            let counter = counter(plan, said.limit, asked.user);
            let charged = possible(plan, ledger, limit, counter, asked, *at);
            if charged + u64::from(asked.hits.max(1)) <= most(limit) {
                let text = format!(
                    "{} of user {} was refused by {}, of whose {} at most {charged} can have been charged",
                    asked.hits,
                    asked.user,
                    limit.name,
                    most(limit)
                );
                found.push(Violation { promise: "refusal", at: *at, text });
            }
        }
    }
}

/// The most that can have been charged when it was refused, or so shortly before that the refusal was remembered.
fn possible(plan: &Plan, ledger: &Ledger, limit: &Limit, of: Counter, refused: &Asked, at: Instant) -> u64 {
    let reach = reach_us(limit).saturating_add(ROUNDING_US);
    let remembered = refused.at.saturating_sub(plan.lease_us);
    let since = remembered.saturating_sub(reach);
    let others = ledger.asked.iter().filter(|other| {
        !std::ptr::eq(*other, refused) && plan.limits_of(other.family).any(|l| counter(plan, l, other.user) == of)
    });
    let others = others.filter(|other| other.at <= at);
    if limit.algorithm != Algorithm::TokenBucket {
        let counts = |other: &&Asked| charged_by(plan, other).saturating_add(2 * plan.deadline_us) >= since;
        return others.filter(counts).map(|other| Charges::of(plan, ledger, other, remembered).sum()).sum();
    }
    // What is missing in the bucket at the first instant at which it can have been refused: each charged as late as can be
    // until then, and with all that came later.
    let Period::Window { ms } = limit.period else { return u64::MAX };
    let rate = super::allowance::hits(limit);
    let mut charges: Vec<(Instant, u64)> = Vec::new();
    for other in others {
        let Charges { kept, in_passing } = Charges::of(plan, ledger, other, remembered);
        charges.push((end_of(other).min(remembered), kept));
        // Nobody knows when; and a part of a hit that is owed counts as a whole one.
        charges.push((remembered, in_passing + u64::from(other.is_degraded())));
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

/// When a check had its answer.
fn end_of(asked: &Asked) -> Instant {
    asked.answer.as_ref().map_or(Instant::MAX, |(end, _)| *end)
}

/// The latest instant that what a check was charged can count from: what was admitted without the store by a core that
/// had never heard its clock counts from when it has.
fn charged_by(plan: &Plan, asked: &Asked) -> Instant {
    let mut end = end_of(asked);
    if asked.is_degraded() {
        for fault in plan.faults.iter().filter(|fault| fault.kind.degrades()) {
            if fault.begin <= end.saturating_add(4 * plan.deadline_us) {
                end = end.max(fault.end);
            }
        }
    }
    end
}

/// Hits that a check may have had charged.
struct Charges {
    /// By the time of its answer.
    kept: u64,
    /// Without its being told, or until they go back.
    in_passing: u64,
}

impl Charges {
    const fn sum(&self) -> u64 {
        self.kept + self.in_passing
    }

    /// Of a check, at an instant.
    fn of(plan: &Plan, ledger: &Ledger, other: &Asked, then: Instant) -> Self {
        let hits = u64::from(other.hits);
        let alone = plan.limits_of(other.family).count() == 1;
        let (kept, in_passing) = match &other.answer {
            Some((end, Said::Decided(decided))) => {
                // Who waited for as long as it could may have been charged without being told.
                let unknown = *end >= other.came + other.within_us && !sent_in_vain(plan, ledger, other, *end);
                // What another limit refused goes back, in time, unless that is lost.
                let reserved =
                    !decided.allowed && !alone && (!plan.is_certain() || *end + 3 * plan.deadline_us >= then);
                (if decided.allowed { hits } else { 0 }, if unknown || reserved { hits } else { 0 })
            }
            Some((_, Said::Shed)) if alone => (0, 0),
            _ => (0, hits),
        };
        Self { kept, in_passing }
    }
}

/// Whether all that was sent for a check came to a primary that was stopped, and went on after its time: a stall eats no limit.
fn sent_in_vain(plan: &Plan, ledger: &Ledger, other: &Asked, end: Instant) -> bool {
    let counters = plan.limits_of(other.family).map(|limit| counter(plan, limit, other.user));
    let primaries: Vec<usize> = counters.filter_map(|counter| ledger.primary.get(&counter).copied()).collect();
    // Its core knew the primary's clock: it had an answer for the same user before.
    let knew = ledger.asked.iter().any(|earlier| {
        let same = (earlier.holder, earlier.boot, earlier.family, earlier.user)
            == (other.holder, other.boot, other.family, other.user);
        let answered = earlier
            .answer
            .as_ref()
            .is_some_and(|(at, said)| *at < other.at && matches!(said, Said::Decided(decided) if !decided.degraded));
        same && answered
    });
    let only_stalls = plan.faults.iter().all(|fault| matches!(fault.kind, Kind::Stall { .. }));
    knew && only_stalls
        && primaries.len() == 1
        && plan.faults.iter().any(|fault| {
            let stalled = matches!(fault.kind, Kind::Stall { primary } if primaries == [primary]);
            stalled && fault.begin + plan.delay_us < other.at && end + 3 * plan.deadline_us < fault.end
        })
}
