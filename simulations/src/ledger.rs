//! What clients asked and were answered, and what the faults were that the promises make allowances for. Oracles know
//! nothing else.

use std::collections::BTreeMap;

use super::faults::Instant;
use super::plan::Family;
use limiter::Revision;

/// A check, as its client saw it.
#[derive(Clone, Debug)]
pub struct Asked {
    pub at: Instant,
    /// It came to its core then, where that was stopped meanwhile.
    pub came: Instant,
    /// How long its client waits at most, in microseconds.
    pub within_us: u64,
    pub holder: usize,
    /// The core's life, of which a crash begins another.
    pub boot: u32,
    pub family: Family,
    pub user: u32,
    pub hits: u32,
    /// It was asked when everything had healed.
    pub probe: bool,
    /// What was said, and when; `None` while it waits.
    pub answer: Option<(Instant, Said)>,
}

impl Asked {
    /// Whether it was allowed.
    pub fn is_allowed(&self) -> bool {
        matches!(&self.answer, Some((_, Said::Decided(decided))) if decided.allowed)
    }

    /// Whether it was decided without the store.
    pub fn is_degraded(&self) -> bool {
        matches!(&self.answer, Some((_, Said::Decided(decided))) if decided.degraded)
    }
}

/// What became of a check.
#[derive(Clone, Debug)]
pub enum Said {
    Decided(Decided),
    /// The node was overloaded.
    Overload,
    /// The client hung up, or its node was killed.
    Gone,
}

/// A decision.
#[derive(Clone, Debug)]
pub struct Decided {
    pub allowed: bool,
    pub degraded: bool,
    pub revision: Revision,
    pub limits: Vec<Limited>,
}

/// What one limit said.
#[derive(Clone, Copy, Debug)]
pub struct Limited {
    /// Its place among the limits.
    pub limit: usize,
    /// As many hits as it says it grants.
    pub of: Option<u64>,
    pub refused: bool,
}

/// A counter: a limit's place, and whose it is; of a limit that all share nobody's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counter {
    pub limit: usize,
    pub user: Option<u32>,
}

/// What a primary granted.
#[derive(Clone, Copy, Debug)]
pub struct Granted {
    pub at: Instant,
    pub tokens: u64,
    pub holder: usize,
    pub boot: u32,
}

/// A primary forgot what it had granted of some counters after an instant.
#[derive(Clone, Copy, Debug)]
pub struct Forgot {
    pub at: Instant,
    pub since: Instant,
}

/// A primary's clock was set, from one difference to the world's to another, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct Leap {
    pub at: Instant,
    pub from_us: i64,
    pub to_us: i64,
}

/// Everything that oracles know.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    pub asked: Vec<Asked>,
    pub granted: BTreeMap<Counter, Vec<Granted>>,
    pub forgot: BTreeMap<Counter, Vec<Forgot>>,
    /// By primary.
    pub leaps: BTreeMap<usize, Vec<Leap>>,
    /// The primary of each counter that had one.
    pub primary: BTreeMap<Counter, usize>,
    /// When each core came to know each revision: holder, life, revision, instant.
    pub told: Vec<(usize, u32, Revision, Instant)>,
    /// The most keys that a core had, and the most checks that waited at one.
    pub most_keys: usize,
    pub most_waiting: usize,
    /// Since when everything is well again, and all that was under way has come to rest.
    pub rested: Instant,
    /// That took no longer than is stated.
    pub rested_in_time: bool,
    /// From this check on what was left of the windows without end was taken.
    pub drained_from: usize,
    pub fresh: Vec<Fresh>,
}

/// Checks of one hit, one after another, of a user of whom nothing counts any more.
#[derive(Clone, Copy, Debug)]
pub struct Fresh {
    pub user: u32,
    /// The first of them.
    pub from: usize,
    /// As many as the limits allow.
    pub hits: u64,
}
