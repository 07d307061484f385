//! When a shard's batches leave: what a flusher does each time that it is told something.
//!
//! Pure, so that the flusher of a node and the simulator's do the same.

use super::shard_core::{Outgoing, Shard};
use crate::time::NodeTime;

/// What a flusher is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// Something is queued, or a lane is free again.
    Queued,
    /// Time passed: leases and idle keys are looked at.
    Tick,
    /// Batches waited for a turn: those in flight may be too slow by now to take one.
    Turn,
}

/// What is to be done now.
#[derive(Debug, Default)]
pub struct Due {
    pub batches: Vec<Outgoing>,
    /// [`Cause::Turn`] is to be told in so many microseconds.
    pub turn_in: Option<u64>,
}

/// What a flusher remembers from one time to the next.
#[derive(Debug, Default)]
pub struct Turns {
    /// Batches wait for a turn, and the flusher will look at them again by itself.
    looks_again: bool,
}

impl Turns {
    /// Whether the flusher has something to do.
    pub fn are_due(&self, shard: &Shard, now: NodeTime) -> bool {
        shard.has_batches(now) || !self.looks_again && shard.next_turn(now).is_some()
    }

    /// The batches that leave, and when to look again.
    pub fn take(&mut self, shard: &mut Shard, cause: Cause, now: NodeTime) -> Due {
        if cause == Cause::Tick {
            shard.tick(now);
        }
        let batches = shard.take_batches(now);
        let looked_for = self.looks_again && cause != Cause::Turn;
        let next_turn = shard.next_turn(now);
        self.looks_again = looked_for || next_turn.is_some();
        Due { batches, turn_in: next_turn.filter(|_| !looked_for) }
    }
}
