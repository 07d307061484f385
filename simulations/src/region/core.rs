//! A core of a node: its shard, its flusher's state and the node's clock.

use std::collections::BTreeMap;

use crate::ids::{Boot, CheckIndex, CoreIndex, Instant, NodeIndex};
use crate::rng::Rng;
use crate::scenario::{MAX_WAITING, Plan};
use limiter::{Breaker, MAX_ITEMS, NodeClock, NodeTime, Shard, ShardConfig, Ticket, WallTime};

/// A core. Its shard is a holder of tokens.
pub struct Core {
    pub node: NodeIndex,
    pub shard: Shard<CheckIndex>,
    /// True if the flusher is about to run.
    pub flush_pending: bool,
    /// The checks that wait.
    pub waiting: BTreeMap<CheckIndex, Ticket>,
    pub boot: Boot,
    /// The index of the edit that the core received last.
    pub edit: usize,
    pub alive: bool,
    /// The core does nothing until this time.
    pub stopped_until: Instant,
    /// One for each primary.
    pub breakers: Vec<Breaker>,
    /// The node's monotonic clock less the world's, in microseconds, without suspensions.
    skew_us: u64,
    /// The time for which the monotonic clock stood still, in microseconds.
    pub suspended_us: u64,
    /// Corrects the monotonic clock for suspensions.
    node_clock: NodeClock,
    /// True if the node compares its monotonic clock with the wall clock.
    detects_suspension: bool,
    config: ShardConfig,
}

impl Core {
    pub fn new(plan: &Plan, index: CoreIndex, config: ShardConfig, detects_suspension: bool, rng: &mut Rng) -> Self {
        let skew_us = draw_skew(rng);
        let shard = Shard::new(config, draw_wall_clock(rng), NodeTime(skew_us));
        Self {
            node: NodeIndex(index.0 / plan.cores),
            shard,
            flush_pending: false,
            waiting: BTreeMap::new(),
            boot: Boot(0),
            edit: 0,
            alive: true,
            stopped_until: 0,
            breakers: (0..plan.primaries).map(|_| Breaker::default()).collect(),
            skew_us,
            suspended_us: 0,
            node_clock: NodeClock::new(0),
            detects_suspension,
            config,
        }
    }

    /// Draws the configuration of a core's shard.
    pub fn draw_config(plan: &Plan, rng: &mut Rng) -> ShardConfig {
        ShardConfig {
            max_keys: plan.max_keys,
            max_waiting: MAX_WAITING,
            lease_us: plan.lease_us,
            deadline_us: plan.deadline_us,
            holders: u32::try_from(plan.holders()).unwrap_or(u32::MAX),
            min_holders: plan.min_holders,
            lanes: plan.lanes,
            max_items: MAX_ITEMS,
            hash_keys: false,
            seeds: std::array::from_fn(|_| rng.any()),
        }
    }

    /// True if the core runs and was not restarted since `boot`.
    pub fn is_running(&self, boot: Boot) -> bool {
        self.alive && self.boot == boot
    }

    /// Returns the node's time.
    pub fn clock(&self, now: Instant) -> NodeTime {
        // While the monotonic clock stands still, the wall clock goes on.
        let ahead_us = if self.detects_suspension { i64::try_from(self.suspended_us).unwrap_or(i64::MAX) } else { 0 };
        self.node_clock.at(now + self.skew_us - self.suspended_us, ahead_us, || Some(ahead_us))
    }

    /// Kills the core, and returns the checks that waited.
    pub fn kill(&mut self) -> Vec<CheckIndex> {
        self.alive = false;
        self.boot.0 += 1;
        std::mem::take(&mut self.waiting).into_keys().collect()
    }

    /// Starts the core again with a new shard.
    pub fn restart(&mut self, rng: &mut Rng, now: Instant) {
        self.config.seeds = std::array::from_fn(|_| rng.any());
        (self.skew_us, self.suspended_us) = (draw_skew(rng), 0);
        self.node_clock = NodeClock::new(0);
        self.shard = Shard::new(self.config, draw_wall_clock(rng), self.clock(now));
        (self.flush_pending, self.alive) = (false, true);
        self.breakers.iter().for_each(Breaker::record_answer);
    }

    /// Stops the core until a time. Does not shorten a stop.
    pub fn stop_until(&mut self, end: Instant) {
        self.stopped_until = self.stopped_until.max(end);
    }
}

fn draw_skew(rng: &mut Rng) -> u64 {
    rng.between(1 << 30, 1 << 40)
}

/// Draws a wall clock, which may be years off.
fn draw_wall_clock(rng: &mut Rng) -> WallTime {
    WallTime(rng.between(1_600_000_000_000_000, 1_800_000_000_000_000))
}
