//! The grid of a window counter: cells aligned to the epoch or to a calendar, and the hits that count at an instant.
//!
//! `fixed_window` has one cell. `sliding_window` has two, and the older is weighted by the part that still overlaps
//! (Cloudflare's sliding window counter). `rolling_window` has n + 1 unweighted cells, which bounds every interval.
//! Widths and weights are rounded **up**, so the count is never below the truth. All arithmetic is on integers below
//! 2^53. A Redis script, which has only doubles, therefore computes the same.

use serde::{Deserialize, Serialize};

use super::cell::Cell;
use crate::time::StoreTime;

/// The largest `limit` and `burst`: its sums and weights stay exact in the doubles of a Redis script.
pub const MAX_LIMIT: u64 = 1 << 36;
/// A weight of 1. The weight of the older cell is a multiple of its inverse, rounded up.
pub const WEIGHT_ONE: u64 = 1 << 16;

/// The beginnings of four calendar cells in milliseconds: the one before the current, the current, and the two after
/// it.
///
/// A node sends them with an item, and the store picks the cell of its own `now`. Three cells cover the error of a
/// node's estimate of the store's clock.
pub type CalendarBounds = [u64; 4];

/// The cells of a window counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grid {
    Fixed {
        width_ms: u64,
    },
    Sliding {
        width_ms: u64,
    },
    /// `cells` older cells beside the current.
    Rolling {
        width_ms: u64,
        cells: u32,
    },
    Calendar {
        bounds: CalendarBounds,
    },
}

/// The current cell at an instant, and the oldest cell that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellSpan {
    pub start_ms: u64,
    pub end_ms: u64,
    /// The beginning of the oldest cell that still counts.
    pub oldest_ms: u64,
}

impl Grid {
    /// The cell of `now`; `None` if `now` is outside the calendar bounds that the item carries.
    pub fn span_at(&self, now: StoreTime) -> Option<CellSpan> {
        let ms = now.millis();
        let (width_ms, older) = match *self {
            Self::Fixed { width_ms } => (width_ms, 0),
            Self::Sliding { width_ms } => (width_ms, 1),
            Self::Rolling { width_ms, cells } => (width_ms, u64::from(cells)),
            Self::Calendar { bounds } => {
                let at = (0..3).find(|i| bounds[*i] <= ms && ms < bounds[*i + 1])?;
                return Some(CellSpan { start_ms: bounds[at], end_ms: bounds[at + 1], oldest_ms: bounds[at] });
            }
        };
        let start_ms = ms - ms % width_ms;
        Some(CellSpan {
            start_ms,
            end_ms: start_ms.saturating_add(width_ms),
            oldest_ms: start_ms.saturating_sub(width_ms.saturating_mul(older)),
        })
    }

    /// Hits that count at `now`: those of the current cell, and those of the older ones as the algorithm weighs them.
    pub fn used(&self, cells: &[Cell], span: &CellSpan, now: StoreTime) -> u64 {
        let counting = cells.iter().filter(|c| c.start_ms >= span.oldest_ms && c.start_ms <= span.start_ms);
        match *self {
            Self::Sliding { width_ms } => counting
                .map(|cell| {
                    if cell.start_ms == span.start_ms {
                        cell.used()
                    } else {
                        weighted(cell.used(), overlap_ms(span, now), width_ms)
                    }
                })
                .sum(),
            _ => counting.map(Cell::used).sum(),
        }
    }

    /// The first instant at which `hits` would fit if nothing more is charged; `None` if never.
    pub fn fits_at(&self, cells: &[Cell], span: &CellSpan, now: StoreTime, hits: u64, limit: u64) -> Option<StoreTime> {
        let room = limit.checked_sub(hits)?;
        if self.used(cells, span, now) <= room {
            return Some(now);
        }
        match *self {
            Self::Fixed { .. } | Self::Calendar { .. } => Some(StoreTime::from_millis(span.end_ms)),
            Self::Sliding { width_ms } => Some(sliding_fits_at(cells, span, width_ms, room)),
            Self::Rolling { width_ms, cells: older } => {
                let mut counting: Vec<&Cell> = cells.iter().filter(|c| c.start_ms >= span.oldest_ms).collect();
                counting.sort_by_key(|c| c.start_ms);
                let mut sum: u64 = counting.iter().map(|c| c.used()).sum();
                for cell in counting {
                    sum -= cell.used();
                    if sum <= room {
                        let gone_ms = cell.start_ms + width_ms * (u64::from(older) + 1);
                        return Some(StoreTime::from_millis(gone_ms));
                    }
                }
                None
            }
        }
    }

    /// The instant from which no hit counts any more if nothing more is charged; `now` if none counts.
    pub fn empty_at(&self, cells: &[Cell], span: &CellSpan, now: StoreTime) -> StoreTime {
        let newest = cells.iter().filter(|c| c.start_ms >= span.oldest_ms && c.used() > 0).map(|c| c.start_ms).max();
        let Some(newest_ms) = newest else { return now };
        self.gone_at(newest_ms, span.end_ms).max(now)
    }

    /// The instant from which a cell does not count any more. `end_ms` is the end of its window, which only a fixed
    /// window and a calendar need.
    pub fn gone_at(&self, start_ms: u64, end_ms: u64) -> StoreTime {
        StoreTime::from_millis(match *self {
            Self::Fixed { .. } | Self::Calendar { .. } => end_ms,
            Self::Sliding { width_ms } => start_ms.saturating_add(2 * width_ms),
            Self::Rolling { width_ms, cells } => start_ms.saturating_add((u64::from(cells) + 1) * width_ms),
        })
    }
}

/// The part of the older cell that still overlaps, in milliseconds rounded up: as much as is left of the current cell.
fn overlap_ms(span: &CellSpan, now: StoreTime) -> u64 {
    StoreTime::from_millis(span.end_ms).since(now).div_ceil(1000)
}

/// `used` × the overlapping part. Both roundings are up.
fn weighted(used: u64, overlap_ms: u64, width_ms: u64) -> u64 {
    let weight = (overlap_ms * WEIGHT_ONE).div_ceil(width_ms);
    // A count above every limit need not be weighed exactly, and must not overflow.
    (used.min(2 * MAX_LIMIT) * weight).div_ceil(WEIGHT_ONE)
}

/// The longest overlap, in milliseconds, at which `used` weighs at most `room`.
fn widest_overlap_ms(used: u64, room: u64, width_ms: u64) -> u64 {
    let weight = (room * WEIGHT_ONE).checked_div(used).unwrap_or(WEIGHT_ONE).min(WEIGHT_ONE);
    weight * width_ms / WEIGHT_ONE
}

fn sliding_fits_at(cells: &[Cell], span: &CellSpan, width_ms: u64, room: u64) -> StoreTime {
    let used_at = |start_ms: u64| cells.iter().find(|c| c.start_ms == start_ms).map_or(0, Cell::used);
    let current = used_at(span.start_ms);
    let (used, room, end_ms) = match room.checked_sub(current) {
        Some(left) => (used_at(span.oldest_ms), left, span.end_ms),
        None => (current, room, span.end_ms + width_ms),
    };
    StoreTime::from_millis(end_ms - widest_overlap_ms(used, room, width_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::Entry;
    use crate::ids::Incarnation;

    fn cell(start_ms: u64, used: u64) -> Cell {
        Cell { start_ms, entries: vec![Entry { incarnation: Incarnation(7), charged: used, returned: 0 }] }
    }

    #[test]
    fn the_older_cell_counts_in_proportion_to_its_overlap_rounded_up() {
        let grid = Grid::Sliding { width_ms: 1000 };
        let cells = [cell(0, 10), cell(1000, 3)];
        let used = |now: u64| grid.used(&cells, &grid.span_at(StoreTime(now)).unwrap(), StoreTime(now));
        assert_eq!(used(1_000_000), 13);
        assert_eq!(used(1_500_000), 8);
        assert_eq!(used(1_999_999), 4, "one microsecond of overlap still counts");
        assert_eq!(used(2_000_000), 3);
    }

    #[test]
    fn fits_at_is_the_first_time_that_fits() {
        let cases = [
            (Grid::Fixed { width_ms: 1000 }, vec![cell(5000, 9)]),
            (Grid::Sliding { width_ms: 1000 }, vec![cell(4000, 10), cell(5000, 3)]),
            (Grid::Sliding { width_ms: 1000 }, vec![cell(4000, 2), cell(5000, 10)]),
            (Grid::Rolling { width_ms: 100, cells: 10 }, vec![cell(4500, 4), cell(4900, 4), cell(5200, 2)]),
        ];
        for (grid, cells) in cases {
            let now = StoreTime(5_250_300);
            let span = grid.span_at(now).unwrap();
            for hits in 1..=10 {
                let fits = grid.fits_at(&cells, &span, now, hits, 10).unwrap();
                let used = |t: StoreTime| grid.used(&cells, &grid.span_at(t).unwrap(), t);
                assert!(used(fits) + hits <= 10, "{grid:?} {hits} at {fits:?}");
                if fits > now {
                    assert!(used(StoreTime(fits.0 - 1)) + hits > 10, "{grid:?} {hits} before {fits:?}");
                }
            }
            assert_eq!(grid.fits_at(&cells, &span, now, 11, 10), None);
        }
    }

    #[test]
    fn extreme_values_neither_overflow_nor_panic() {
        use crate::rules::MAX_WINDOW_MS;
        let far = StoreTime(u64::MAX);
        let width_ms = MAX_WINDOW_MS;
        for grid in [Grid::Fixed { width_ms }, Grid::Sliding { width_ms }, Grid::Rolling { width_ms, cells: 20 }] {
            for now in [StoreTime(0), far] {
                let span = grid.span_at(now).unwrap();
                let cells = [cell(span.start_ms, MAX_LIMIT)];
                assert!(grid.used(&cells, &span, now) >= MAX_LIMIT);
                let _ = grid.empty_at(&cells, &span, now);
                let _ = grid.fits_at(&cells, &span, now, 1, MAX_LIMIT);
            }
        }
    }
}
