//! The demand of one user in each region.

use std::fmt;

use crate::ids::{Instant, RegionIndex};
use crate::rng::Rng;

const SECOND_US: u64 = 1_000_000;
const MS: u64 = 1000;
/// The most checks a second in one region.
const MAX_RATE: u64 = 1000;

/// How the demand is spread over the regions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Spread {
    /// Each region has a rate of its own, which is drawn.
    Random,
    Even,
    /// One region has most of it.
    Skewed,
    /// One region has most of it, and later the next one has.
    Moving,
}

impl Spread {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Even => "even",
            Self::Skewed => "skewed",
            Self::Moving => "moving",
        }
    }
}

/// How many checks of one hit a user sends in each region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    pub spread: Spread,
    /// By region: the mean time between two checks, in microseconds.
    gaps_us: Vec<u64>,
    /// From then on, each region has the rate of the one before.
    pub moves_at: Instant,
}

impl Demand {
    /// Draws rates from a fifth of the limit to four times the limit in each region.
    pub fn draw_random(rng: &mut Rng, (limit, window_ms): (u64, u64), regions: usize) -> Self {
        let draw = |_| {
            let percent = rng.pick(20, &[50, 100, 200, 400]) * rng.between(70, 100) / 100;
            SECOND_US / (limit * 10 * percent / window_ms).clamp(1, MAX_RATE)
        };
        Self { spread: Spread::Random, gaps_us: (0..regions).map(draw).collect(), moves_at: Instant::MAX }
    }

    /// Draws rates of which one region's is low, and those of all together are more than the limit.
    pub fn draw_hungry(rng: &mut Rng, limit: (u64, u64), regions: usize) -> Self {
        let mut demand = Self::draw_random(rng, limit, regions);
        let (hits, window_ms) = limit;
        let low = rng.index(regions);
        for (region, gap_us) in demand.gaps_us.iter_mut().enumerate() {
            let percent = if region == low { 10 } else { 150 };
            *gap_us = (window_ms * MS * 100 / (hits * percent)).max(1);
        }
        demand
    }

    /// Draws a demand of four fifths of the limit in each window, which moves in the window that begins at `begins_at`.
    pub fn draw_legitimate(rng: &mut Rng, (limit, window_ms): (u64, u64), regions: usize, begins_at: Instant) -> Self {
        let spread = rng.pick(Spread::Even, &[Spread::Skewed, Spread::Moving]);
        let first = rng.index(regions);
        let percent = |region: usize| match spread {
            Spread::Even | Spread::Random => 80 / regions as u64,
            _ if region == first => 70,
            _ => 10 / (regions as u64 - 1).max(1),
        };
        let gap_us = |region: usize| window_ms * MS * 100 / (limit * percent(region)).max(1);
        let moves_at = begins_at + rng.between(window_ms / 4, window_ms / 2) * MS;
        let moves_at = if spread == Spread::Moving { moves_at } else { Instant::MAX };
        Self { spread, gaps_us: (0..regions).map(gap_us).collect(), moves_at }
    }

    /// Returns the longest pause between two checks of a region, in microseconds.
    pub fn longest_pause_us(&self, region: RegionIndex, now: Instant) -> Option<u64> {
        let moved = usize::from(now >= self.moves_at);
        let count = self.gaps_us.len().max(1);
        self.gaps_us.get((region.0 + count - moved) % count).map(|mean| 2 * mean)
    }
}

impl fmt::Display for Demand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "           {} demand: a check", self.spread.name())?;
        for (region, gap_us) in self.gaps_us.iter().enumerate() {
            write!(f, "{} each {} ms in region {region}", if region > 0 { "," } else { "" }, gap_us / MS)?;
        }
        if self.moves_at < Instant::MAX {
            write!(f, "; it moves on at {} ms", self.moves_at / MS)?;
        }
        Ok(())
    }
}
