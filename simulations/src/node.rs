//! A core of a node: its shard and its flusher's part, on the node's own clock.

use std::collections::BTreeMap;

use super::dice::Dice;
use super::faults::Instant;
use super::plan::Plan;
use limiter::{Breaker, MAX_ITEMS, NodeClock, NodeTime, Shard, ShardConfig, Ticket, WallTime};

/// Checks that wait at one core at most.
pub const MAX_WAITING: usize = 200;

pub struct Holder {
    pub node: usize,
    pub shard: Shard<usize>,
    /// Its flusher is about to run.
    pub flush_pending: bool,
    /// Checks that wait, by their index in the ledger.
    pub waiting: BTreeMap<usize, Ticket>,
    /// A crash begins another life.
    pub boot: u32,
    pub alive: bool,
    /// It does nothing until then.
    pub stopped_until: Instant,
    /// One for each primary.
    pub breakers: Vec<Breaker>,
    /// Its monotonic clock is ahead of the world's by so much, in microseconds.
    skew_us: u64,
    /// Its monotonic clock stood still for so long, in microseconds.
    pub suspended_us: u64,
    /// Corrects its monotonic clock for suspensions.
    node_clock: NodeClock,
    /// True if it compares its monotonic clock with the wall clock.
    notices: bool,
    config: ShardConfig,
}

impl Holder {
    /// `notices` says whether it compares its monotonic clock with the wall clock.
    pub fn new(plan: &Plan, at: usize, config: ShardConfig, notices: bool, dice: &mut Dice) -> Self {
        let (skew_us, now) = (dice.between(1 << 30, 1 << 40), 0);
        let shard = Shard::new(config, wall(dice), NodeTime(now + skew_us));
        Self {
            node: at / plan.cores,
            shard,
            flush_pending: false,
            waiting: BTreeMap::new(),
            boot: 0,
            alive: true,
            stopped_until: 0,
            breakers: (0..plan.primaries).map(|_| Breaker::default()).collect(),
            skew_us,
            suspended_us: 0,
            node_clock: NodeClock::new(0),
            notices,
            config,
        }
    }

    /// What its shard is built with.
    pub fn config(plan: &Plan, dice: &mut Dice) -> ShardConfig {
        ShardConfig {
            max_keys: plan.max_keys,
            max_waiting: MAX_WAITING,
            lease_us: plan.lease_us,
            deadline_us: plan.deadline_us,
            holders: u32::try_from(plan.holders()).unwrap_or(u32::MAX),
            min_holders: plan.min_holders,
            lanes: plan.lanes,
            max_items: MAX_ITEMS,
            seeds: std::array::from_fn(|_| dice.any()),
        }
    }

    /// Its clock.
    pub fn clock(&self, now: Instant) -> NodeTime {
        // Its wall clock gains on the monotonic one while that stands still.
        let ahead_us = if self.notices { i64::try_from(self.suspended_us).unwrap_or(i64::MAX) } else { 0 };
        self.node_clock.at(now + self.skew_us - self.suspended_us, ahead_us, || Some(ahead_us))
    }

    /// It is killed: whoever waits gets no answer.
    pub fn die(&mut self) -> Vec<usize> {
        self.alive = false;
        self.boot += 1;
        std::mem::take(&mut self.waiting).into_keys().collect()
    }

    /// It starts again, and remembers nothing.
    pub fn start(&mut self, dice: &mut Dice, now: Instant) {
        self.config.seeds = std::array::from_fn(|_| dice.any());
        (self.skew_us, self.suspended_us) = (dice.between(1 << 30, 1 << 40), 0);
        self.node_clock = NodeClock::new(0);
        self.shard = Shard::new(self.config, wall(dice), self.clock(now));
        (self.flush_pending, self.alive) = (false, true);
        self.breakers.iter().for_each(Breaker::record_answer);
    }
}

/// A node's wall clock may be far off.
fn wall(dice: &mut Dice) -> WallTime {
    WallTime(dice.between(1_600_000_000_000_000, 1_800_000_000_000_000))
}
