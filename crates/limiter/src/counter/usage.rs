//! The hits of a window counter that count at an instant.
//!
//! The older cell of a sliding window is weighted by the part that still overlaps (Cloudflare's sliding window
//! counter). A hit that the log shows to be older than the window does not count. All arithmetic is on integers below
//! 2^53. A Redis script, which has only doubles, therefore computes the same.

use super::cell::Cell;
use super::grid::{CellSpan, Grid, MAX_LIMIT, WEIGHT_ONE};
use super::hit_log::HitLog;
use crate::ids::RegionNumber;
use crate::time::StoreTime;

/// The hits of one window counter.
#[derive(Clone, Copy, Debug)]
pub struct Usage<'a> {
    pub grid: &'a Grid,
    /// The newest first.
    pub cells: &'a [Cell],
    pub log: &'a HitLog,
    /// Only the hits of the store's own region count.
    pub own: bool,
}

impl Usage<'_> {
    /// Hits that count at `now`: those of the current cell, and those of the older ones as the algorithm weighs them,
    /// without those that are known to be older than the window.
    pub fn used(&self, span: &CellSpan, now: StoreTime) -> u64 {
        self.counting(span)
            .map(|cell| {
                let used = if self.own { cell.used_by(RegionNumber::OWN) } else { cell.used() };
                if cell.start_ms == span.start_ms {
                    return used;
                }
                let weighed = match *self.grid {
                    Grid::Sliding { width_ms } => weighted(used, overlap_ms(span, now), width_ms),
                    _ => used,
                };
                weighed.min(self.perhaps_in_window(cell, now))
            })
            .sum()
    }

    /// The first instant at which `hits` would fit if nothing more is charged; `None` if never.
    pub fn fits_at(&self, span: &CellSpan, now: StoreTime, hits: u64, limit: u64) -> Option<StoreTime> {
        let room = limit.checked_sub(hits)?;
        if self.used(span, now) <= room {
            return Some(now);
        }
        // The count shrinks at these instants.
        let mut instants: Vec<StoreTime> = match *self.grid {
            Grid::Fixed { .. } | Grid::Calendar { .. } => return Some(StoreTime::from_millis(span.end_ms)),
            Grid::Sliding { width_ms } => vec![sliding_fits_at(self.cells, span, width_ms, room)],
            Grid::Rolling { .. } => {
                self.counting(span).map(|cell| self.grid.gone_at(cell.start_ms, span.end_ms)).collect()
            }
        };
        instants.extend(self.log.entries().iter().filter_map(|entry| self.leaves_at(entry.at)));
        instants.sort_unstable();
        let fits = |at: StoreTime| self.grid.span_at(at).is_some_and(|span| self.used(&span, at) <= room);
        let first = instants.partition_point(|at| *at <= now || !fits(*at));
        instants.get(first).or(instants.last()).copied()
    }

    /// The instant from which no hit counts any more if nothing more is charged; `now` if none counts.
    pub fn empty_at(&self, span: &CellSpan, now: StoreTime) -> StoreTime {
        let counting = self.cells.iter().filter(|cell| cell.start_ms >= span.oldest_ms && cell.used() > 0);
        let gone = counting.map(|cell| {
            let gone = self.grid.gone_at(cell.start_ms, span.end_ms);
            self.all_left_at(cell).map_or(gone, |left| left.min(gone))
        });
        gone.fold(now, StoreTime::max)
    }

    /// The cells that count.
    fn counting(&self, span: &CellSpan) -> impl Iterator<Item = &Cell> {
        let (oldest_ms, newest_ms) = (span.oldest_ms, span.start_ms);
        self.cells.iter().filter(move |cell| (oldest_ms..=newest_ms).contains(&cell.start_ms))
    }

    /// The most hits of a cell that are in the window that ends at `now`: every one that is not known to have left it.
    fn perhaps_in_window(&self, cell: &Cell, now: StoreTime) -> u64 {
        if self.log.entries().is_empty() {
            return u64::MAX;
        }
        let entries = self.log.of_cell(cell.start_ms, self.grid.end_ms(cell.start_ms));
        let left = entries.filter(|entry| self.leaves_at(entry.at).is_some_and(|at| at <= now));
        // Hits that were taken back may be those that have left, so the charges count, not the hits that remain.
        cell.charged().saturating_sub(left.map(|entry| entry.hits).sum())
    }

    /// The instant at which the last hit of a cell leaves the window; `None` if the log does not have all its hits.
    fn all_left_at(&self, cell: &Cell) -> Option<StoreTime> {
        let entries = || self.log.of_cell(cell.start_ms, self.grid.end_ms(cell.start_ms));
        let logged: u64 = entries().map(|entry| entry.hits).sum();
        if logged < cell.charged() { None } else { self.leaves_at(entries().last()?.at) }
    }

    /// The first instant at which a hit of `at` is not in the window any more, which ends with that instant and does
    /// not contain its own beginning. `None` for a window without older cells.
    fn leaves_at(&self, at: StoreTime) -> Option<StoreTime> {
        self.grid.sliding_ms().map(|window_ms| StoreTime(at.0.saturating_add(window_ms * 1000)))
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

/// The first instant at which at most `room` hits count in a sliding window, as the cells alone show.
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

    fn usage<'a>(grid: &'a Grid, cells: &'a [Cell]) -> Usage<'a> {
        Usage { grid, cells, log: HitLog::EMPTY, own: false }
    }

    fn cell(start_ms: u64, used: u64) -> Cell {
        Cell { start_ms, entries: vec![Entry { incarnation: Incarnation(7), charged: used, returned: 0 }] }
    }

    #[test]
    fn the_older_cell_counts_in_proportion_to_its_overlap_rounded_up() {
        let grid = Grid::Sliding { width_ms: 1000 };
        let cells = [cell(0, 10), cell(1000, 3)];
        let used = |now: u64| usage(&grid, &cells).used(&grid.span_at(StoreTime(now)).unwrap(), StoreTime(now));
        assert_eq!(used(1_000_000), 13);
        assert_eq!(used(1_500_000), 8);
        assert_eq!(used(1_999_999), 4, "one microsecond of overlap still counts");
        assert_eq!(used(2_000_000), 3);
        let (now, cells) = (StoreTime(1_500_000), [cell(0, 2 * MAX_LIMIT)]);
        let used = usage(&grid, &cells).used(&grid.span_at(now).unwrap(), now);
        assert_eq!(used, MAX_LIMIT, "half of twice the largest limit leaves nothing of it");
    }

    #[test]
    fn a_window_is_empty_when_the_last_hit_that_counts_has_left_it() {
        let grid = Grid::Fixed { width_ms: 1000 };
        let now = StoreTime::from_millis(5250);
        let empty_at = |cells: &[Cell]| usage(&grid, cells).empty_at(&grid.span_at(now).unwrap(), now);
        assert_eq!(empty_at(&[cell(5000, 1), cell(4000, 3)]), StoreTime::from_millis(6000));
        let mut returned = cell(5000, 2);
        returned.give_back(Incarnation(7), 2);
        assert_eq!(empty_at(&[returned, cell(4000, 3)]), now);
    }

    #[test]
    fn a_window_is_empty_earlier_if_the_log_has_all_hits() {
        let (grid, now) = (Grid::Sliding { width_ms: 1000 }, StoreTime::from_millis(5400));
        let (cells, mut log) = ([cell(5000, 5)], HitLog::default());
        let empty_at = |log: &HitLog| {
            let usage = Usage { grid: &grid, cells: &cells, log, own: false };
            usage.empty_at(&grid.span_at(now).unwrap(), now).millis()
        };
        log.note(StoreTime::from_millis(5000), StoreTime::from_millis(5200), 3);
        assert_eq!(empty_at(&log), 7000, "nobody knows when two of the hits came");
        log.note(StoreTime::from_millis(5000), StoreTime::from_millis(5300), 2);
        assert_eq!(empty_at(&log), 6300);
    }

    #[test]
    fn fits_at_is_the_first_time_that_fits() {
        let cases = [
            (Grid::Fixed { width_ms: 1000 }, vec![cell(5000, 9)]),
            (Grid::Sliding { width_ms: 1000 }, vec![cell(4000, 10), cell(5000, 3)]),
            (Grid::Sliding { width_ms: 1000 }, vec![cell(4000, 2), cell(5000, 10)]),
            (Grid::Rolling { window_ms: 1000, cells: 10 }, vec![cell(4500, 4), cell(4900, 4), cell(5200, 2)]),
        ];
        for (grid, cells) in cases {
            let now = StoreTime(5_250_300);
            let span = grid.span_at(now).unwrap();
            for hits in 1..=10 {
                let fits = usage(&grid, &cells).fits_at(&span, now, hits, 10).unwrap();
                let used = |t: StoreTime| usage(&grid, &cells).used(&grid.span_at(t).unwrap(), t);
                assert!(used(fits) + hits <= 10, "{grid:?} {hits} at {fits:?}");
                if fits > now {
                    assert!(used(StoreTime(fits.0 - 1)) + hits > 10, "{grid:?} {hits} before {fits:?}");
                }
            }
            assert_eq!(usage(&grid, &cells).fits_at(&span, now, 11, 10), None);
        }
    }

    #[test]
    fn extreme_values_neither_overflow_nor_panic() {
        use crate::rules::MAX_WINDOW_MS;
        let far = StoreTime(u64::MAX);
        let width_ms = MAX_WINDOW_MS;
        for grid in
            [Grid::Fixed { width_ms }, Grid::Sliding { width_ms }, Grid::Rolling { window_ms: width_ms, cells: 20 }]
        {
            for now in [StoreTime(0), far] {
                let span = grid.span_at(now).unwrap();
                let cells = [cell(span.start_ms, MAX_LIMIT)];
                let usage = usage(&grid, &cells);
                assert!(usage.used(&span, now) >= MAX_LIMIT);
                let _ = usage.empty_at(&span, now);
                let _ = usage.fits_at(&span, now, 1, MAX_LIMIT);
            }
        }
    }
}
