//! `on_partition: share`: what a region admits of a counter while another region does not hear it.
//!
//! For the window in which the partition was noticed, the region may admit its weighted part of what was left then. For
//! every later window, it may admit its weighted part of the whole limit. All regions together then admit at most the
//! limit, and the hits that were unseen when the partition was noticed.

use serde::{Deserialize, Serialize};

use super::cell::Cell;
use super::grid::CellSpan;
use super::usage::Usage;
use crate::ids::RegionNumber;
use crate::time::StoreTime;

/// A partition that is noticed this much later is another one. The nodes of a region notice one partition at slightly
/// different times. The older notice is the stricter one, so a long tolerance breaks no promise.
pub const NOTICE_TOLERANCE_MS: u64 = 10_000;

/// What an item says while its region is partitioned from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    /// When the node noticed the partition, in milliseconds of the store's clock.
    pub since_ms: u64,
    pub part: Part,
}

/// The weighted part of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub weight: u32,
    /// The sum of the weights of all regions, this one included.
    pub weights: u32,
}

impl Part {
    /// The whole.
    pub const ONE: Self = Self { weight: 1, weights: 1 };

    /// The part of `hits`, rounded down. Both are below 2^53, as is the result.
    pub fn of(self, hits: u64) -> u64 {
        let part = u128::from(hits) * u128::from(self.weight) / u128::from(self.weights.max(1));
        u64::try_from(part).unwrap_or(u64::MAX).min(hits)
    }
}

/// What a record remembers of a partition: the cell in which it was noticed, what the region had used in it by then,
/// and what it may admit from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Noticed {
    pub since_ms: u64,
    pub cell_ms: u64,
    pub used: u64,
    pub admits: u64,
}

impl Share {
    /// Hits that the region may still admit. `available` are those that are left of the limit. Notes the partition in
    /// `noticed`, if it is a new one for this counter.
    pub fn available(
        &self,
        noticed: &mut Option<Noticed>,
        usage: &Usage<'_>,
        limit: u64,
        available: u64,
        at: (&CellSpan, StoreTime),
    ) -> u64 {
        let (span, now) = at;
        let is_known = noticed.is_some_and(|known| self.since_ms <= known.since_ms + NOTICE_TOLERANCE_MS);
        if !is_known {
            let used = own_used_since(usage.cells, span.start_ms);
            *noticed = Some(Noticed {
                since_ms: self.since_ms,
                cell_ms: span.start_ms,
                used,
                admits: self.part.of(available),
            });
        }
        let Some(Noticed { since_ms, cell_ms, used, admits }) = *noticed else { return available };
        let in_progress = match usage.grid.sliding_ms() {
            None => span.start_ms <= since_ms,
            Some(window_ms) => now.millis() < since_ms.saturating_add(window_ms),
        };
        let left = if in_progress {
            (used + admits).saturating_sub(own_used_since(usage.cells, cell_ms))
        } else {
            let own = Usage { own: true, ..*usage };
            self.part.of(limit).saturating_sub(own.used(span, now))
        };
        available.min(left)
    }
}

/// Hits of the region itself in the cells from `start_ms` on.
fn own_used_since(cells: &[Cell], start_ms: u64) -> u64 {
    cells.iter().filter(|cell| cell.start_ms >= start_ms).map(|cell| cell.used_by(RegionNumber::OWN)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::{Entry, Grid, HitLog};
    use crate::ids::Incarnation;

    const HALF: Part = Part { weight: 1, weights: 2 };

    fn cell(start_ms: u64, own: u64, foreign: u64) -> Cell {
        let entry = |region, charged| Entry {
            incarnation: Incarnation(1).of_region(RegionNumber(region)),
            charged,
            returned: 0,
        };
        Cell { start_ms, entries: vec![entry(0, own), entry(9, foreign)] }
    }

    fn left(noticed: &mut Option<Noticed>, grid: Grid, cells: &[Cell], since_ms: u64, now_ms: u64) -> u64 {
        let now = StoreTime::from_millis(now_ms);
        let span = grid.span_at(now).unwrap();
        let usage = Usage { grid: &grid, cells, log: HitLog::EMPTY, own: false };
        let available = 100_u64.saturating_sub(usage.used(&span, now));
        Share { since_ms, part: HALF }.available(noticed, &usage, 100, available, (&span, now))
    }

    #[test]
    fn a_region_admits_its_part_of_what_was_left_and_then_its_part_of_the_whole() {
        let grid = Grid::Fixed { width_ms: 1000 };
        let mut noticed = None;
        // 60 of 100 are used when the partition is noticed: the region may admit 20 of the 40 that are left.
        assert_eq!(left(&mut noticed, grid, &[cell(5000, 40, 20)], 5500, 5500), 20);
        assert_eq!(left(&mut noticed, grid, &[cell(5000, 55, 20)], 5500, 5600), 5);
        assert_eq!(left(&mut noticed, grid, &[cell(5000, 60, 20)], 5500, 5700), 0);
        // Another node noticed it a little later.
        assert_eq!(left(&mut noticed, grid, &[cell(5000, 60, 20)], 5650, 5700), 0);
        assert_eq!(left(&mut noticed, grid, &[cell(6000, 30, 0), cell(5000, 60, 20)], 5500, 6000), 20);
    }

    #[test]
    fn a_window_in_which_the_partition_was_noticed_counts_to_its_end() {
        let grid = Grid::Sliding { width_ms: 1000 };
        let mut noticed = None;
        assert_eq!(left(&mut noticed, grid, &[cell(5000, 40, 20)], 5500, 5500), 20);
        assert_eq!(left(&mut noticed, grid, &[cell(6000, 15, 0), cell(5000, 45, 20)], 5500, 6499), 0);
        // 50 may be used, and 50 % of 45 and all of 15 are.
        assert_eq!(left(&mut noticed, grid, &[cell(6000, 15, 0), cell(5000, 45, 20)], 5500, 6500), 12);
        // 50 may be used, and 10 % of 45 and all of 15 are.
        assert_eq!(left(&mut noticed, grid, &[cell(6000, 15, 0), cell(5000, 45, 20)], 5500, 6900), 30);
    }

    #[test]
    fn a_partition_that_is_noticed_much_later_is_another_one() {
        let grid = Grid::Fixed { width_ms: 100_000 };
        let mut noticed = None;
        assert_eq!(left(&mut noticed, grid, &[cell(0, 0, 0)], 5000, 5000), 50);
        assert_eq!(left(&mut noticed, grid, &[cell(0, 50, 20)], 5000, 6000), 0);
        assert_eq!(left(&mut noticed, grid, &[cell(0, 50, 20)], 5000 + NOTICE_TOLERANCE_MS + 1, 16_000), 15);
    }

    #[test]
    fn the_part_of_a_region_is_rounded_down() {
        let part = |weight, weights, hits| Part { weight, weights }.of(hits);
        assert_eq!((part(1, 3, 10), part(2, 3, 10), part(3, 3, 10)), (3, 6, 10));
        assert_eq!((part(0, 3, 10), part(5, 3, 10), part(1, 0, 10)), (0, 10, 10), "it is never more than the whole");
    }
}
