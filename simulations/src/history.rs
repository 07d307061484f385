//! The history of a simulation: what clients asked and were answered, and the faults that the promises allow for.
//! Oracles know nothing else.

use std::collections::BTreeMap;

use super::ids::{Boot, CheckIndex, CoreId, Counter, Instant, PrimaryId, RegionIndex};
use super::scenario::{Asked, LimitSet};
use limiter::Revision;
use limiter::counter::Entry;

/// A check, as its client saw it.
#[derive(Clone, Debug)]
pub struct ClientCheck {
    /// When the client sent it.
    pub sent_at: Instant,
    /// When it came to its core: later than `sent_at` if the core was stopped.
    pub received_at: Instant,
    /// How long its client waits at most, in microseconds.
    pub timeout_us: u64,
    pub core: CoreId,
    /// The boot of the core for which it was meant.
    pub boot: Boot,
    pub limit_set: LimitSet,
    /// Its descriptors: one, or several in the scenario `books`.
    pub asked: Vec<Asked>,
    /// True if it was sent after all faults had ended, to probe a limit.
    pub probe: bool,
    /// The answer and when it came; `None` while the check waits.
    pub answer: Option<(Instant, Answer)>,
}

impl ClientCheck {
    /// Returns the user of its first descriptor.
    pub fn user(&self) -> u32 {
        self.asked.first().map_or(0, |asked| asked.user)
    }

    /// Returns the hits of all its descriptors.
    pub fn hits(&self) -> u64 {
        self.asked.iter().map(|asked| u64::from(asked.hits)).sum()
    }

    /// Returns the decision, if the check was decided.
    pub const fn decision(&self) -> Option<&Decided> {
        match &self.answer {
            Some((_, Answer::Decided(decided))) => Some(decided),
            _ => None,
        }
    }

    /// True if it was allowed.
    pub fn is_allowed(&self) -> bool {
        self.decision().is_some_and(|decided| decided.allowed)
    }

    /// True if it was decided without the store.
    pub fn is_degraded(&self) -> bool {
        self.decision().is_some_and(|decided| decided.degraded)
    }
}

/// How a check ended.
#[derive(Clone, Debug)]
pub enum Answer {
    Decided(Decided),
    /// The node was overloaded.
    Overloaded,
    /// There will be no answer: the client hung up, or its node was killed.
    Abandoned,
}

/// A decision, as the client received it.
#[derive(Clone, Debug)]
pub struct Decided {
    pub allowed: bool,
    /// True if the node decided without the store.
    pub degraded: bool,
    /// True if a limit was decided as its `on_partition` says.
    pub partitioned: bool,
    pub revision: Revision,
    pub limits: Vec<LimitDecision>,
}

impl Decided {
    /// True if a limit had no room for the hits of a descriptor.
    pub fn has_no_room(&self, descriptor: usize, limit: usize) -> bool {
        self.limits.iter().any(|it| (it.descriptor, it.limit) == (descriptor, limit) && it.denied)
    }
}

/// The decision of one limit.
#[derive(Clone, Copy, Debug)]
pub struct LimitDecision {
    /// The index among all limits.
    pub limit: usize,
    /// The position of the descriptor in the check.
    pub descriptor: usize,
    /// The limit that the answer states.
    pub quota: Option<u64>,
    /// True if its counter had no room. Then it denied the check, unless it is in shadow mode.
    pub denied: bool,
    pub shadow: bool,
}

/// Tokens that a primary granted.
#[derive(Clone, Copy, Debug)]
pub struct Grant {
    pub at: Instant,
    pub tokens: u64,
    pub core: CoreId,
    pub boot: Boot,
}

/// The rights that a region had left of a counter under escrow after its primary ran an item.
#[derive(Clone, Copy, Debug)]
pub struct RightsLeft {
    pub at: Instant,
    pub rights: u64,
}

/// A primary forgot, at an instant, what it had granted of a counter after another instant.
#[derive(Clone, Copy, Debug)]
pub struct Forgotten {
    pub at: Instant,
    pub since: Instant,
}

/// A primary's clock was set. Both values are its clock less the world's, in microseconds.
#[derive(Clone, Copy, Debug)]
pub struct ClockJump {
    pub at: Instant,
    pub from_us: i64,
    pub to_us: i64,
}

/// A core received a revision of the rules.
#[derive(Clone, Copy, Debug)]
pub struct RulesReceived {
    pub core: CoreId,
    pub boot: Boot,
    pub revision: Revision,
    pub at: Instant,
}

/// What a region's store has of one region's hits of a counter, at the end.
#[derive(Clone, Debug)]
pub struct RegionCount {
    pub at: Instant,
    /// The counter in the region whose store was read.
    pub counter: Counter,
    /// The region that admitted the hits.
    pub of: RegionIndex,
    pub hits: u64,
    /// The entries of each cell, by its beginning (ms).
    pub cells: Vec<(u64, Vec<Entry>)>,
}

/// Everything that oracles know.
#[derive(Clone, Debug, Default)]
pub struct History {
    pub checks: Vec<ClientCheck>,
    pub granted: BTreeMap<Counter, Vec<Grant>>,
    /// Of counters under escrow.
    pub rights_left: BTreeMap<Counter, Vec<RightsLeft>>,
    pub forgotten: BTreeMap<Counter, Vec<Forgotten>>,
    pub clock_jumps: BTreeMap<PrimaryId, Vec<ClockJump>>,
    /// The primary that last granted tokens of each counter.
    pub primary: BTreeMap<Counter, PrimaryId>,
    pub rules_received: Vec<RulesReceived>,
    /// The largest number of keys that a core had.
    pub max_keys: usize,
    /// The largest number of checks that waited at one core.
    pub max_waiting: usize,
    /// When all faults had ended and everything that was in flight had settled.
    pub quiesced_at: Instant,
    /// True if that took no longer than the stated time.
    pub quiesced_in_time: bool,
    /// The index of the first check that takes what is left of the windows that do not end.
    pub drain_start: usize,
    pub refill_probes: Vec<RefillProbes>,
    /// Of the counters that regions share, a stated time after the faults.
    pub region_counts: Vec<RegionCount>,
}

impl History {
    /// Returns the check, or `None` if there is no check with this index.
    pub fn check(&self, check: CheckIndex) -> Option<&ClientCheck> {
        self.checks.get(check.0)
    }

    /// Appends a check and returns its index.
    pub fn push_check(&mut self, check: ClientCheck) -> CheckIndex {
        self.checks.push(check);
        CheckIndex(self.checks.len() - 1)
    }

    /// Returns how the clock of the counter's primary was set.
    pub fn clock_jumps_of(&self, counter: &Counter) -> &[ClockJump] {
        let jumps = self.primary.get(counter).and_then(|primary| self.clock_jumps.get(primary));
        jumps.map(Vec::as_slice).unwrap_or_default()
    }
}

/// Successive checks of one hit, for a user whose earlier hits no longer count.
#[derive(Clone, Copy, Debug)]
pub struct RefillProbes {
    pub user: u32,
    /// The index of the first of the checks.
    pub start: usize,
    /// The number of checks: as many hits as the limits allow.
    pub hits: u64,
}
