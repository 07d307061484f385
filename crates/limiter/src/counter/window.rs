//! Window counters: a ring of cells aligned to the epoch (or a calendar), and what counts at an instant.
//!
//! `fixed_window` has one cell, `sliding_window` two with the older weighted by what still overlaps (Cloudflare's
//! sliding window counter), `rolling_window` n + 1 unweighted ones, which bounds every interval. Widths and weights
//! round **up**: what is counted is never less than the truth. All arithmetic is on integers below 2^53, so that a
//! Redis script, which has doubles only, computes the same.

use serde::{Deserialize, Serialize};

use crate::rules::{Bounds, MAX_LIMIT};
use crate::time::StoreTime;

/// A weight of 1; the weight of the older cell is a multiple of its inverse, rounded up.
const WEIGHT_ONE: u64 = 1 << 16;
/// Sources that a cell keeps apart; what was charged beyond that is kept as a sum, [`FLOOR`].
pub const MAX_ENTRIES: usize = 32;
/// No count grows past this: sums stay exact in doubles.
pub const MAX_COUNT: u64 = 1 << 52;
/// The name of an entry that says how much all sources of a cell charged together, at the least. Only a cell that has
/// dropped entries has it.
pub const FLOOR: u64 = (1 << 48) - 1;

/// The grid of a window counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grid {
    Fixed {
        width_ms: u64,
    },
    Sliding {
        width_ms: u64,
    },
    /// `cells` older ones beside the current.
    Rolling {
        width_ms: u64,
        cells: u32,
    },
    Calendar {
        bounds: Bounds,
    },
}

/// What one source charged to a cell and gave back; both only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The incarnation of the key that charged, or [`FLOOR`]; below 2^48.
    pub source: u64,
    pub charged: u64,
    pub returned: u64,
}

impl Entry {
    /// Hits that count.
    pub const fn used(&self) -> u64 {
        self.charged.saturating_sub(self.returned)
    }
}

/// One cell of a window: a map from source to what it charged, merged by max and counted as the sum.
///
/// A cell that has no room for all its sources drops the oldest ones, and keeps the sum that it had as a floor. The sum
/// over the sources that it still has, and the floor, are each at most what was charged; the larger one counts. So no
/// source counts twice, however often it is dropped and heard of again. The floor grows with every charge and shrinks with
/// every return. What may be missing: of a source that was dropped, what others bring that this cell never knew.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Milliseconds since the epoch; names the cell.
    pub start_ms: u64,
    /// At most [`MAX_ENTRIES`], the oldest first.
    pub entries: Vec<Entry>,
}

impl Cell {
    pub const fn new(start_ms: u64) -> Self {
        Self { start_ms, entries: Vec::new() }
    }

    /// Hits that count in this cell.
    pub fn used(&self) -> u64 {
        let floor = self.find(FLOOR).map_or(0, Entry::used);
        self.apart().max(floor)
    }

    /// Hits that the sources charged which the cell keeps apart.
    fn apart(&self) -> u64 {
        self.entries.iter().filter(|e| e.source != FLOOR).map(Entry::used).sum()
    }

    /// Takes in what somebody saw of this cell: per source the larger of both figures. `current` is not dropped.
    pub fn merge(&mut self, seen: &[Entry], current: u64) {
        for entry in seen {
            let mine = self.entry(entry.source);
            mine.charged = mine.charged.max(entry.charged);
            mine.returned = mine.returned.max(entry.returned);
        }
        self.fold(current);
    }

    /// Charges `tokens` in the name of `source`.
    pub fn charge(&mut self, source: u64, tokens: u64) {
        let add = |entry: &mut Entry| entry.charged = entry.charged.saturating_add(tokens).min(MAX_COUNT);
        add(self.entry(source));
        self.find_mut(FLOOR).into_iter().for_each(add);
        self.fold(source);
    }

    /// Takes back what `source` had charged; never more than it had.
    pub fn give_back(&mut self, source: u64, tokens: u64) {
        let Some(entry) = self.find_mut(source).filter(|entry| entry.source != FLOOR) else { return };
        let back = tokens.min(entry.used());
        entry.returned += back;
        if let Some(floor) = self.find_mut(FLOOR) {
            floor.returned = floor.returned.saturating_add(back).min(floor.charged);
        }
    }

    fn find(&self, source: u64) -> Option<&Entry> {
        self.entries.iter().find(|e| e.source == source)
    }

    fn find_mut(&mut self, source: u64) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|e| e.source == source)
    }

    fn entry(&mut self, source: u64) -> &mut Entry {
        let at = self.entries.iter().position(|e| e.source == source).unwrap_or_else(|| {
            self.entries.push(Entry { source, charged: 0, returned: 0 });
            self.entries.len() - 1
        });
        &mut self.entries[at]
    }

    /// Drops the oldest entries, but not that of `current`, and keeps what they came to with the others as the floor.
    fn fold(&mut self, current: u64) {
        if self.entries.len() <= MAX_ENTRIES {
            return;
        }
        let all = self.apart();
        let floor = self.entry(FLOOR);
        floor.charged = floor.charged.saturating_add(all.saturating_sub(floor.used())).min(MAX_COUNT);
        while self.entries.len() > MAX_ENTRIES
            && let Some(oldest) = self.entries.iter().position(|e| e.source != FLOOR && e.source != current)
        {
            self.entries.remove(oldest);
        }
    }
}

/// The cell that begins at `start_ms`, made where it is missing; `cells` are the newest first.
pub fn cell_at(cells: &mut Vec<Cell>, start_ms: u64) -> &mut Cell {
    let at = cells.iter().position(|c| c.start_ms <= start_ms).unwrap_or(cells.len());
    if cells.get(at).is_none_or(|c| c.start_ms != start_ms) {
        cells.insert(at, Cell::new(start_ms));
    }
    &mut cells[at]
}

/// The current cell at an instant, and how far back the ring reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub start_ms: u64,
    pub end_ms: u64,
    /// Beginning of the oldest cell that still counts.
    pub oldest_ms: u64,
}

impl Grid {
    /// Where `now` falls; `None` when it is outside the calendar bounds that the item carries.
    pub fn place(&self, now: StoreTime) -> Option<Place> {
        let ms = now.millis();
        let (width_ms, older) = match *self {
            Self::Fixed { width_ms } => (width_ms, 0),
            Self::Sliding { width_ms } => (width_ms, 1),
            Self::Rolling { width_ms, cells } => (width_ms, u64::from(cells)),
            Self::Calendar { bounds } => {
                let at = (0..3).find(|i| bounds[*i] <= ms && ms < bounds[*i + 1])?;
                return Some(Place { start_ms: bounds[at], end_ms: bounds[at + 1], oldest_ms: bounds[at] });
            }
        };
        let start_ms = ms - ms % width_ms;
        Some(Place {
            start_ms,
            end_ms: start_ms.saturating_add(width_ms),
            oldest_ms: start_ms.saturating_sub(width_ms.saturating_mul(older)),
        })
    }

    /// Hits that count at `now`: the current cell's and the older ones' as the algorithm weighs them.
    pub fn used(&self, cells: &[Cell], place: &Place, now: StoreTime) -> u64 {
        let counting = cells.iter().filter(|c| c.start_ms >= place.oldest_ms && c.start_ms <= place.start_ms);
        match *self {
            Self::Sliding { width_ms } => counting
                .map(|cell| {
                    if cell.start_ms == place.start_ms {
                        cell.used()
                    } else {
                        weighted(cell.used(), overlap_ms(place, now), width_ms)
                    }
                })
                .sum(),
            _ => counting.map(Cell::used).sum(),
        }
    }

    /// The first instant at which `hits` would fit if nothing more is charged; `None` if never.
    pub fn fits_at(&self, cells: &[Cell], place: &Place, now: StoreTime, hits: u64, limit: u64) -> Option<StoreTime> {
        let room = limit.checked_sub(hits)?;
        if self.used(cells, place, now) <= room {
            return Some(now);
        }
        match *self {
            Self::Fixed { .. } | Self::Calendar { .. } => Some(StoreTime::from_millis(place.end_ms)),
            Self::Sliding { width_ms } => Some(sliding_fits_at(cells, place, width_ms, room)),
            Self::Rolling { width_ms, cells: older } => {
                let mut counting: Vec<&Cell> = cells.iter().filter(|c| c.start_ms >= place.oldest_ms).collect();
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

    /// The instant from which nothing counts any more if nothing is charged; `now` when nothing does.
    pub fn empty_at(&self, cells: &[Cell], place: &Place, now: StoreTime) -> StoreTime {
        let newest = cells.iter().filter(|c| c.start_ms >= place.oldest_ms && c.used() > 0).map(|c| c.start_ms).max();
        let Some(newest_ms) = newest else { return now };
        self.gone_at(newest_ms, place.end_ms).max(now)
    }

    /// The instant from which a cell does not count any more, whatever is in it; a fixed window's or a calendar's ends at
    /// `end_ms`.
    pub fn gone_at(&self, start_ms: u64, end_ms: u64) -> StoreTime {
        StoreTime::from_millis(match *self {
            Self::Fixed { .. } | Self::Calendar { .. } => end_ms,
            Self::Sliding { width_ms } => start_ms.saturating_add(2 * width_ms),
            Self::Rolling { width_ms, cells } => start_ms.saturating_add((u64::from(cells) + 1) * width_ms),
        })
    }
}

/// What is left of the current cell, in milliseconds rounded up: that much of the older cell still overlaps.
fn overlap_ms(place: &Place, now: StoreTime) -> u64 {
    StoreTime::from_millis(place.end_ms).since(now).div_ceil(1000)
}

/// `used` × the overlapping part, both roundings up.
fn weighted(used: u64, overlap_ms: u64, width_ms: u64) -> u64 {
    let weight = (overlap_ms * WEIGHT_ONE).div_ceil(width_ms);
    // What is above every limit need not be weighed exactly, and must not overflow.
    (used.min(2 * MAX_LIMIT) * weight).div_ceil(WEIGHT_ONE)
}

/// The longest overlap, in milliseconds, at which `used` weighs at most `room`.
fn widest_overlap_ms(used: u64, room: u64, width_ms: u64) -> u64 {
    let weight = (room * WEIGHT_ONE).checked_div(used).unwrap_or(WEIGHT_ONE).min(WEIGHT_ONE);
    weight * width_ms / WEIGHT_ONE
}

fn sliding_fits_at(cells: &[Cell], place: &Place, width_ms: u64, room: u64) -> StoreTime {
    let used_at = |start_ms: u64| cells.iter().find(|c| c.start_ms == start_ms).map_or(0, Cell::used);
    let current = used_at(place.start_ms);
    let (used, room, end_ms) = match room.checked_sub(current) {
        Some(left) => (used_at(place.oldest_ms), left, place.end_ms),
        None => (current, room, place.end_ms + width_ms),
    };
    StoreTime::from_millis(end_ms - widest_overlap_ms(used, room, width_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cell(start_ms: u64, used: u64) -> Cell {
        Cell { start_ms, entries: vec![Entry { source: 7, charged: used, returned: 0 }] }
    }

    #[test]
    fn the_older_cell_weighs_what_still_overlaps_rounded_up() {
        let grid = Grid::Sliding { width_ms: 1000 };
        let cells = [cell(0, 10), cell(1000, 3)];
        let used = |now: u64| grid.used(&cells, &grid.place(StoreTime(now)).unwrap(), StoreTime(now));
        assert_eq!(used(1_000_000), 13);
        assert_eq!(used(1_500_000), 8);
        assert_eq!(used(1_999_999), 4, "a last microsecond of overlap still weighs");
        assert_eq!(used(2_000_000), 3);
    }

    #[test]
    fn the_named_instant_is_the_first_that_fits() {
        let cases = [
            (Grid::Fixed { width_ms: 1000 }, vec![cell(5000, 9)]),
            (Grid::Sliding { width_ms: 1000 }, vec![cell(4000, 10), cell(5000, 3)]),
            (Grid::Sliding { width_ms: 1000 }, vec![cell(4000, 2), cell(5000, 10)]),
            (Grid::Rolling { width_ms: 100, cells: 10 }, vec![cell(4500, 4), cell(4900, 4), cell(5200, 2)]),
        ];
        for (grid, cells) in cases {
            let now = StoreTime(5_250_300);
            let place = grid.place(now).unwrap();
            for hits in 1..=10 {
                let fits = grid.fits_at(&cells, &place, now, hits, 10).unwrap();
                let used = |t: StoreTime| grid.used(&cells, &grid.place(t).unwrap(), t);
                assert!(used(fits) + hits <= 10, "{grid:?} {hits} at {fits:?}");
                if fits > now {
                    assert!(used(StoreTime(fits.0 - 1)) + hits > 10, "{grid:?} {hits} before {fits:?}");
                }
            }
            assert_eq!(grid.fits_at(&cells, &place, now, 11, 10), None);
        }
    }

    #[test]
    fn merging_is_by_source_and_repeats_change_nothing() {
        let mut cell = cell(0, 5);
        let seen = [Entry { source: 7, charged: 9, returned: 2 }, Entry { source: 8, charged: 4, returned: 4 }];
        cell.merge(&seen, 7);
        assert_eq!(cell.used(), 7);
        cell.merge(&seen, 7);
        assert_eq!(cell.used(), 7);
    }

    #[test]
    fn a_cell_of_many_sources_keeps_the_sum_and_its_bound() {
        let mut cell = Cell::new(0);
        for source in 1..=100 {
            cell.charge(source, source);
            cell.give_back(source, 1);
        }
        assert_eq!(cell.entries.len(), MAX_ENTRIES);
        assert_eq!(cell.used(), (1..=100u64).sum::<u64>() - 100);
    }

    #[test]
    fn a_source_that_was_dropped_and_is_heard_of_again_counts_once() {
        let mut cell = Cell::new(0);
        (1..=40).for_each(|source| cell.charge(source, 3));
        let old: Vec<Entry> = (1..=40).map(|source| Entry { source, charged: 3, returned: 0 }).collect();
        for _ in 0..100 {
            for seen in old.chunks(7) {
                cell.merge(seen, 40);
            }
            assert_eq!(cell.used(), 120);
        }
        cell.charge(40, 5);
        cell.give_back(40, 2);
        assert_eq!(cell.used(), 123);
        assert!(cell.entries.iter().any(|entry| entry.source == 40), "who charges now is not dropped");
    }

    #[test]
    fn a_source_gives_back_no_more_than_it_charged() {
        let mut cell = cell(0, 5);
        cell.give_back(7, 9);
        cell.give_back(99, 1);
        assert_eq!(cell.used(), 0);
    }

    #[test]
    fn the_extremes_neither_overflow_nor_panic() {
        use crate::rules::MAX_WINDOW_MS;
        let far = StoreTime(u64::MAX);
        let width_ms = MAX_WINDOW_MS;
        for grid in [Grid::Fixed { width_ms }, Grid::Sliding { width_ms }, Grid::Rolling { width_ms, cells: 20 }] {
            for now in [StoreTime(0), far] {
                let place = grid.place(now).unwrap();
                let cells = [cell(place.start_ms, MAX_LIMIT)];
                assert!(grid.used(&cells, &place, now) >= MAX_LIMIT);
                let _ = grid.empty_at(&cells, &place, now);
                let _ = grid.fits_at(&cells, &place, now, 1, MAX_LIMIT);
            }
        }
    }
}
