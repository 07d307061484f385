//! Rules, limits, asks and replies for the tests of keys and shards.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::messages::{Context, QueuedAsk};
use crate::counter::{Grant, Granted, Seen, SeenCells};
use crate::ids::{Incarnation, SlotId, Ticket};
use crate::revision::Revision;
use crate::rules::{
    Algorithm, Domain, EffectiveLimit, Limit, Match, Mode, OnStoreFailure, Period, Quota, RuleBook, Rules, Scope,
};
use crate::time::{NodeTime, StoreTime};

/// The cell of [`fixed_window`] at the instant of [`CX`], in milliseconds since the epoch.
pub const CELL_MS: u64 = 1_700_000_000_000;
/// The incarnation of every counter.
pub const INCARNATION: Incarnation = Incarnation(7);

/// What a key knows of a shard 400 ms after the beginning of a cell.
pub const CX: Context = Context {
    now: NodeTime(5_000_000),
    store_now: StoreTime::from_millis(CELL_MS + 400),
    clock_known: true,
    lease_us: 100_000,
    holders: 3,
    divisor: 2,
    regions: None,
};

/// A rule that allows each user `hits` in a fixed window of one second.
pub fn rule(name: &str, hits: u64) -> Limit {
    Limit {
        name: name.to_owned(),
        matches: Match::default(),
        per: vec!["user".into()],
        limit: Quota::Hits(hits),
        period: Period::Window { ms: 1000 },
        algorithm: Algorithm::FixedWindow,
        cells: None,
        burst: None,
        consistency: None,
        scope: Scope::Region,
        overdraft: false,
        on_store_failure: OnStoreFailure::Local,
        mode: Mode::Enforce,
        overrides: Vec::new(),
        replaces: Vec::new(),
        response_headers: BTreeMap::default(),
    }
}

/// The rules of one domain `d`.
pub fn book(limits: Vec<Limit>, revision: Revision) -> Arc<RuleBook> {
    let domain = Domain { domain: "d".to_owned(), limits, ..Domain::default() };
    Arc::new(RuleBook::compile(Arc::new(Rules { domains: vec![domain] }), revision).unwrap())
}

/// The limit of [`rule`].
pub fn fixed_window(hits: u64) -> EffectiveLimit {
    EffectiveLimit::new(&"d".into(), &rule("l", hits), None, Revision(1))
}

/// A bucket that gets `hits` in each second and holds `burst`.
pub fn bucket(hits: u64, burst: u64) -> EffectiveLimit {
    let rule = Limit { algorithm: Algorithm::TokenBucket, burst: Some(burst), ..rule("l", hits) };
    EffectiveLimit::new(&"d".into(), &rule, None, Revision(1))
}

/// An ask of the check `ticket`.
pub fn ask(ticket: u64, hits: u64, effective: &Arc<EffectiveLimit>) -> QueuedAsk {
    let (ticket, slot, effective) = (Ticket(ticket), SlotId(0), Arc::clone(effective));
    QueuedAsk { ticket, slot, reservation: 0, hits, overdraft: false, refund: None, effective, resent: false }
}

/// A reply about the cell that begins at `cell_ms`. `counts` says how many of each run of asks pass. `lease` tokens are
/// granted in advance.
pub fn grant(cell_ms: u64, counts: &[u32], lease: u32) -> Grant {
    let (cell_end_ms, cells, debts) = (cell_ms + 1000, SeenCells::Empty, Vec::new());
    Grant {
        granted: counts.iter().map(|count| Granted { count: *count, fits_at: None }).collect(),
        lease,
        available: 50,
        reset_at: StoreTime::from_millis(cell_end_ms),
        reported: true,
        spending: None,
        seen: Seen::Window { incarnation: INCARNATION, cell_ms, cell_end_ms, cells, debts },
    }
}
