//! Randomness of a simulation: streams that one seed begins, so that one part's draws do not shift another's.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// What a stream decides; each has draws of its own.
#[derive(Clone, Copy, Debug)]
pub enum Stream {
    Plan = 1,
    Traffic = 2,
    Network = 3,
    Faults = 4,
    Names = 5,
}

/// A stream of draws.
#[derive(Clone, Debug)]
pub struct Dice(SmallRng);

impl Dice {
    pub fn new(seed: u64, stream: Stream) -> Self {
        Self(SmallRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream as u64))
    }

    /// True `percent` times of a hundred.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    /// One of `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high.max(low))
    }

    /// One of so many, the first ones more often.
    pub fn skewed(&mut self, count: u64) -> u64 {
        let count = count.max(1);
        self.between(0, count - 1).min(self.between(0, count - 1))
    }

    /// One of these, of which there is at least one.
    pub fn pick<T: Copy>(&mut self, first: T, others: &[T]) -> T {
        let at = self.0.random_range(0..=others.len());
        if at == 0 { first } else { others.get(at - 1).copied().unwrap_or(first) }
    }

    /// Any number at all.
    pub fn any(&mut self) -> u64 {
        self.0.random()
    }
}
