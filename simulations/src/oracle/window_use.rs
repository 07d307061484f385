//! How much of a hit counts in a window when another one is granted.

use super::hits::AdmittedHits;
use limiter::rules::{Algorithm, DEFAULT_CELLS, Limit, Period};

/// The window of a limit. Hits have parts: a hit has as many parts as the window has microseconds.
#[derive(Clone, Copy, Debug)]
pub struct WindowUse {
    pub algorithm: Algorithm,
    /// The length of the window, in microseconds.
    pub us: u64,
    /// The length of a cell, in microseconds.
    pub cell_us: u64,
    /// How many cells after its beginning a cell counts no more.
    pub cells: u64,
}

impl WindowUse {
    /// Returns `None` for a limit without a window.
    pub fn of(limit: &Limit) -> Option<Self> {
        let Period::Window { ms } = limit.period else { return None };
        let (cell_ms, cells) = match limit.algorithm {
            Algorithm::TokenBucket => return None,
            Algorithm::FixedWindow => (ms, 1),
            Algorithm::SlidingWindow => (ms, 2),
            Algorithm::RollingWindow => {
                let cells = u64::from(limit.cells.unwrap_or(DEFAULT_CELLS));
                (ms.div_ceil(cells), cells + 1)
            }
        };
        Some(Self { algorithm: limit.algorithm, us: ms * 1000, cell_us: cell_ms * 1000, cells })
    }

    /// Returns how many of the hits certainly count when `last` is granted, in parts.
    pub fn used<'h>(&self, hits: impl Iterator<Item = &'h AdmittedHits>, last: &AdmittedHits) -> u128 {
        hits.map(|hit| u128::from(hit.hits) * u128::from(self.weight(hit, last))).sum()
    }

    /// Returns the parts of so many hits.
    pub fn parts(&self, hits: u64) -> u128 {
        u128::from(hits) * u128::from(self.us)
    }

    /// Returns the whole hits of some parts.
    pub fn hits(&self, parts: u128) -> u128 {
        parts / u128::from(self.us)
    }

    /// Returns the parts of one hit that certainly count when `last` is granted.
    pub fn weight(&self, hit: &AdmittedHits, last: &AdmittedHits) -> u64 {
        let cell = |hit: &AdmittedHits| Some(hit.to / self.us).filter(|cell| hit.from / self.us == *cell);
        // A region whose clock is ahead may be in a later cell.
        let is_later = hit.to / self.cell_us > last.from / self.cell_us;
        let is_within = hit.from + self.us > last.to && !is_later;
        match (self.algorithm, cell(hit), cell(last)) {
            (Algorithm::RollingWindow, ..) if is_within => self.us,
            (Algorithm::FixedWindow | Algorithm::SlidingWindow, Some(hit), Some(last)) if hit == last => self.us,
            // A region may know which of a few hits are older than the window.
            (Algorithm::SlidingWindow, Some(hit), Some(cell)) if hit + 1 == cell && is_within => {
                self.us - last.to % self.us
            }
            _ => 0,
        }
    }
}
