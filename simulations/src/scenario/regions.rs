//! The regions of a plan: how many there are, their clocks, and how far they are from each other.

use std::fmt;

use crate::ids::RegionIndex;
use crate::rng::Rng;

const MS: u64 = 1000;

/// The regions of a plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions {
    /// By region: the clocks of its primaries less the world's, in microseconds.
    clock_skews_us: Vec<i64>,
    /// By the region of the sender and then of the receiver: the least time of a message, in microseconds.
    delays_us: Vec<Vec<u64>>,
}

impl Regions {
    /// Returns one region, whose clocks are right.
    pub fn one() -> Self {
        Self { clock_skews_us: vec![0], delays_us: vec![vec![0]] }
    }

    /// Draws `count` regions. Their clocks are off by a few milliseconds at most if `clocks_agree`.
    pub fn draw(rng: &mut Rng, count: usize, clocks_agree: bool) -> Self {
        let skews: &[u64] = if clocks_agree { &[0] } else { &[5, 40, 40, 5000] };
        let clock_skews_us = (0..count).map(|_| draw_skew(rng, skews)).collect();
        let delays_us = (0..count).map(|_| (0..count).map(|_| rng.between(10 * MS, 120 * MS)).collect()).collect();
        Self { clock_skews_us, delays_us }
    }

    pub const fn count(&self) -> usize {
        self.clock_skews_us.len()
    }

    pub fn indices(&self) -> impl Iterator<Item = RegionIndex> + Clone + use<> {
        (0..self.count()).map(RegionIndex)
    }

    /// Returns the clocks of a region's primaries less the world's at the beginning, in microseconds.
    pub fn clock_skew_us(&self, region: RegionIndex) -> i64 {
        self.clock_skews_us.get(region.0).copied().unwrap_or(0)
    }

    /// Returns how far the clocks of two regions are apart at most at the beginning, in microseconds.
    pub fn clock_spread_us(&self) -> u64 {
        let skews = self.clock_skews_us.iter();
        let (first, last) = (skews.clone().min(), skews.max());
        first.zip(last).map_or(0, |(first, last)| last.abs_diff(*first))
    }

    /// Returns the least time of a message between two regions, in microseconds.
    pub fn delay_us(&self, from: RegionIndex, to: RegionIndex) -> u64 {
        self.delays_us.get(from.0).and_then(|row| row.get(to.0)).copied().unwrap_or(0)
    }

    /// Returns what a line about a region begins with: nothing if there is only one region.
    pub fn prefix(&self, region: RegionIndex) -> String {
        if self.count() > 1 { format!("region {region}: ") } else { String::new() }
    }
}

/// Draws how far the clocks of a region are off: at most 5 ms, or one of `others` in milliseconds.
fn draw_skew(rng: &mut Rng, others: &[u64]) -> i64 {
    let most = rng.pick(5, others);
    let us = i64::try_from(rng.between(0, most * MS)).unwrap_or(0);
    if rng.chance(50) { us } else { -us }
}

impl fmt::Display for Regions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for region in self.indices() {
            let clock = self.clock_skew_us(region) / 1000;
            write!(
                f,
                "{}region {region}: clocks {clock:+} ms",
                if region.0 > 0 { "\n           " } else { "  regions  " }
            )?;
            for to in self.indices().filter(|to| *to != region) {
                write!(f, ", {} ms to region {to}", self.delay_us(region, to) / 1000)?;
            }
        }
        Ok(())
    }
}
