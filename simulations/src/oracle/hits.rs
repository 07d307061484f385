//! What each counter admitted, on the clock of its primary: somewhere between [asked, answered].

use std::collections::BTreeMap;

use crate::faults::Instant;
use crate::ledger::{Asked, Counter, Ledger, Said};
use crate::plan::Plan;
use crate::primary::BEGIN;
use crate::world::counter;

/// Hits that were admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The world's instants between which they were.
    pub asked: Instant,
    pub answered: Instant,
    /// The same on the primary's clock, in microseconds since the epoch.
    pub from: u64,
    pub to: u64,
    pub hits: u64,
    /// The store did not decide.
    pub degraded: bool,
}

/// The hits of one counter, in the order of their answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    pub counter: Counter,
    pub hits: Vec<Hit>,
}

/// Of every counter that admitted anything.
pub fn usages(plan: &Plan, ledger: &Ledger) -> Vec<Usage> {
    let mut all: BTreeMap<Counter, Vec<Hit>> = BTreeMap::new();
    for asked in &ledger.asked {
        let Some((answered, Said::Decided(decided))) = &asked.answer else { continue };
        if !decided.allowed || asked.hits == 0 {
            continue;
        }
        for limit in plan.limits_of(asked.family) {
            let counter = counter(plan, limit, asked.user);
            let (from, to) = on_clock(ledger, counter, asked, *answered);
            let hit = Hit {
                asked: asked.at,
                answered: *answered,
                from,
                to,
                hits: asked.hits.into(),
                degraded: decided.degraded,
            };
            all.entry(counter).or_default().push(hit);
        }
    }
    let sorted = all.into_iter().map(|(counter, mut hits)| {
        hits.sort_by_key(|hit| (hit.to, hit.answered));
        Usage { counter, hits }
    });
    sorted.collect()
}

/// The earliest and the latest that the primary's clock said meanwhile.
fn on_clock(ledger: &Ledger, counter: Counter, asked: &Asked, answered: Instant) -> (u64, u64) {
    let primary = ledger.primary.get(&counter);
    let leaps = primary.and_then(|primary| ledger.leaps.get(primary)).map(Vec::as_slice).unwrap_or_default();
    let difference = |at| leaps.iter().rev().find(|leap| leap.at <= at).map_or(0, |leap| leap.to_us);
    let clock = |at: Instant, difference: i64| (BEGIN + at).saturating_add_signed(difference);
    let mut seen = vec![clock(asked.at, difference(asked.at)), clock(answered, difference(answered))];
    for leap in leaps.iter().filter(|leap| (asked.at..=answered).contains(&leap.at)) {
        seen.extend([clock(leap.at, leap.from_us), clock(leap.at, leap.to_us)]);
    }
    (seen.iter().copied().min().unwrap_or(0), seen.iter().copied().max().unwrap_or(0))
}
