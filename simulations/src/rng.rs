//! Random numbers of a simulation. A seed begins several streams, so that the draws of one part do not shift another's.

use rand::rngs::SmallRng;
use rand::{RngExt, SeedableRng};

/// What a stream decides. Each stream has its own draws.
#[derive(Clone, Copy, Debug)]
pub enum Stream {
    Plan = 1,
    Traffic = 2,
    Network = 3,
    Faults = 4,
    /// Random seeds and clocks of cores, and when their periodic work begins.
    Cores = 5,
    /// The number of regions, their clocks and the delays between them.
    Regions = 6,
    /// The regions from which users send their checks.
    Hops = 7,
    /// Messages between regions.
    Links = 8,
    /// Which limits all regions share.
    Scopes = 9,
    /// Edits of what regions share, and when each region takes an edit.
    RegionEdits = 10,
    /// The rule books of a scenario that draws whole ones.
    Books = 11,
    /// The descriptors of checks under such a book.
    Descriptors = 12,
    /// The calendars of limits under escrow.
    Calendars = 13,
}

/// A stream of random numbers.
#[derive(Clone, Debug)]
pub struct Rng(SmallRng);

impl Rng {
    pub fn new(seed: u64, stream: Stream) -> Self {
        Self(SmallRng::seed_from_u64(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ stream as u64))
    }

    /// Returns true in `percent` of a hundred draws.
    pub fn chance(&mut self, percent: u32) -> bool {
        self.0.random_range(0..100) < percent
    }

    /// Draws one of `low..=high`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        self.0.random_range(low..=high.max(low))
    }

    /// Draws one of `0..count`, low numbers more often.
    pub fn skewed(&mut self, count: u64) -> u64 {
        let count = count.max(1);
        self.between(0, count - 1).min(self.between(0, count - 1))
    }

    /// Draws one of `0..count`, or 0 if `count` is 0.
    pub fn index(&mut self, count: usize) -> usize {
        usize::try_from(self.between(0, count.max(1) as u64 - 1)).unwrap_or(0)
    }

    /// Draws `first` or one of `others`, each equally often.
    pub fn pick<T: Copy>(&mut self, first: T, others: &[T]) -> T {
        let at = self.0.random_range(0..=others.len());
        if at == 0 { first } else { others.get(at - 1).copied().unwrap_or(first) }
    }

    /// Draws any number.
    pub fn any(&mut self) -> u64 {
        self.0.random()
    }
}
