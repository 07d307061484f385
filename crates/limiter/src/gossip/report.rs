//! What a region counted of one key, as it tells other regions.

use serde::{Deserialize, Serialize};

use crate::counter::{Cell, Counter, Entry, FLOOR, Grid, Item, MAX_COUNT, MAX_FOREIGN_ENTRIES, SeenCells, used_by};
use crate::ids::RegionNumber;
use crate::rules::MAX_WINDOW_MS;

/// The most cells of a report: those of a rolling window that count.
pub const MAX_REPORTED_CELLS: usize = 21;
/// Names of counters are shorter.
const MAX_KEY_BYTES: usize = 1 << 12;

/// What a region counted of one key. All entries are of that region itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The name of the counter.
    pub key: Box<[u8]>,
    pub grid: Grid,
    /// At most [`MAX_REPORTED_CELLS`], the newest first, each with at most [`MAX_FOREIGN_ENTRIES`] entries.
    pub cells: SeenCells,
}

/// Why a report of another region is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReport {
    #[error("expected a counter name of 1 to 4096 bytes that does not begin with a colon")]
    Key,
    #[error("expected a window of 1 ms to 400 days, with 1 to 20 cells")]
    Grid,
    #[error("expected at most 21 cells that begin at a multiple of their width")]
    Cells,
    #[error("expected at most four entries, of the region itself, with counts below 2^52")]
    Entries,
}

impl Report {
    /// What the region itself counted of a key, as far as a node has seen it. `None` if that is nothing, or less than
    /// `floor`.
    pub fn new(key: &[u8], grid: Grid, seen: &SeenCells, floor: u64) -> Option<Self> {
        let own = seen.iter().filter(|(_, entries)| entries.iter().any(Entry::is_own_count)).take(MAX_REPORTED_CELLS);
        let used: u64 = own.clone().map(|(_, entries)| used_by(entries, RegionNumber::OWN)).sum();
        // A node has seen only the newest two cells of a rolling window. All that stays untold is less than the floor.
        let floor = match grid {
            Grid::Rolling { cells, .. } => floor.saturating_mul(2) / (u64::from(cells) + 2),
            _ => floor,
        };
        // Most keys of many are below it, so nothing is allocated for them.
        if used < floor || own.clone().next().is_none() {
            return None;
        }
        let cells: Vec<Cell> = own.map(|(start_ms, entries)| own_part(start_ms, entries)).collect();
        Some(Self { key: key.into(), grid, cells: cells.into() })
    }

    /// The item that imports a report of another region.
    ///
    /// # Errors
    /// When the report is not what a sound node sends.
    pub fn import(self, from: RegionNumber) -> Result<Item, InvalidReport> {
        self.check()?;
        let foreign = |entry: &Entry| Entry { incarnation: entry.incarnation.of_region(from), ..*entry };
        let cell =
            |(start_ms, entries): (u64, &[Entry])| Cell { start_ms, entries: entries.iter().map(foreign).collect() };
        let cells: Vec<Cell> = self.cells.iter().map(cell).collect();
        let counter = Counter::Import { grid: self.grid, cells: cells.into() };
        Ok(Item { key: self.key, asks: Vec::new(), refund: 0, counter })
    }

    fn check(&self) -> Result<(), InvalidReport> {
        // Names of the store's own records begin with a colon.
        if self.key.is_empty() || self.key.len() > MAX_KEY_BYTES || self.key.starts_with(b":") {
            return Err(InvalidReport::Key);
        }
        let lengths = 1..=MAX_WINDOW_MS;
        let width_ms = match self.grid {
            Grid::Fixed { width_ms } | Grid::Sliding { width_ms } if lengths.contains(&width_ms) => width_ms,
            Grid::Rolling { window_ms, cells: cells @ 1..=20 } if lengths.contains(&window_ms) => {
                window_ms.div_ceil(cells.into())
            }
            _ => return Err(InvalidReport::Grid),
        };
        let on_grid = |start_ms: u64| start_ms < 1 << 48 && start_ms.is_multiple_of(width_ms);
        if self.cells.iter().count() > MAX_REPORTED_CELLS || !self.cells.iter().all(|(start_ms, _)| on_grid(start_ms)) {
            return Err(InvalidReport::Cells);
        }
        let sound = |entry: &Entry| {
            entry.is_own_count() && entry.incarnation.0 > 0 && entry.charged < MAX_COUNT && entry.returned < MAX_COUNT
        };
        let fits = |entries: &[Entry]| entries.len() <= MAX_FOREIGN_ENTRIES && entries.iter().all(sound);
        if self.cells.iter().all(|(_, entries)| fits(entries)) { Ok(()) } else { Err(InvalidReport::Entries) }
    }
}

/// The entries of a cell that belong to the region itself. If they are too many, the oldest are summed up in the floor,
/// whose two numbers only grow as those of every entry do.
fn own_part(start_ms: u64, entries: &[Entry]) -> Cell {
    let mut own: Vec<Entry> = entries.iter().filter(|entry| entry.is_own_count()).copied().collect();
    if own.len() > MAX_FOREIGN_ENTRIES {
        let known = own.iter().position(Entry::is_floor).map(|at| own.remove(at));
        let sum = |of: fn(&Entry) -> u64| own.iter().map(of).fold(0, u64::saturating_add).min(MAX_COUNT - 1);
        let all = Entry { incarnation: FLOOR, charged: sum(|e| e.charged), returned: sum(|e| e.returned) };
        own.drain(..own.len() - (MAX_FOREIGN_ENTRIES - 1));
        own.push(known.filter(|known| known.used() >= all.used()).unwrap_or(all));
    }
    Cell { start_ms, entries: own }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;

    const GRID: Grid = Grid::Fixed { width_ms: 1000 };

    fn entry(region: u16, number: u64, charged: u64) -> Entry {
        Entry { incarnation: Incarnation(number).of_region(RegionNumber(region)), charged, returned: 0 }
    }

    fn seen(entries: &[Entry]) -> SeenCells {
        [Cell { start_ms: 5000, entries: entries.to_vec() }].as_slice().into()
    }

    fn imported(report: Report) -> Vec<Cell> {
        let Ok(Item { counter: Counter::Import { cells, .. }, .. }) = report.import(RegionNumber(7)) else {
            panic!("expected an import")
        };
        cells.iter().map(|(start_ms, entries)| Cell { start_ms, entries: entries.to_vec() }).collect()
    }

    #[test]
    fn a_region_reports_only_its_own_part_and_names_itself() {
        let report = Report::new(b"k", GRID, &seen(&[entry(0, 1, 5), entry(3, 1, 90)]), 0).unwrap();
        assert_eq!(imported(report), [Cell { start_ms: 5000, entries: vec![entry(7, 1, 5)] }]);
        assert_eq!(Report::new(b"k", GRID, &seen(&[entry(3, 1, 90)]), 0), None);
    }

    #[test]
    fn a_key_below_the_floor_stays_in_its_region() {
        let seen = seen(&[entry(0, 1, 5), entry(3, 1, 90)]);
        assert_eq!(Report::new(b"k", GRID, &seen, 6), None);
        assert!(Report::new(b"k", GRID, &seen, 5).is_some());
    }

    #[test]
    fn the_floor_of_a_rolling_window_is_judged_by_the_part_that_a_node_has_seen() {
        let grid = Grid::Rolling { window_ms: 8000, cells: 8 };
        let told = |charged| Report::new(b"k", grid, &seen(&[entry(0, 1, charged)]), 10).is_some();
        assert_eq!([1, 2].map(told), [false, true]);
    }

    #[test]
    fn many_incarnations_are_reported_as_a_sum_that_counts_once() {
        let mut cell = Cell::new(5000);
        for n in 1..=9 {
            cell.charge(Incarnation(n), 10);
            cell.give_back(Incarnation(n), 1);
            let report = Report::new(b"k", GRID, &seen(&cell.entries), 0).unwrap();
            let cells = imported(report);
            assert!(cells[0].entries.len() <= MAX_FOREIGN_ENTRIES);
            assert_eq!(cells[0].used(), cell.used());
        }
    }

    #[test]
    fn of_more_than_four_entries_three_are_reported_and_the_larger_of_the_known_floor_and_the_sum() {
        let floor = |charged| Entry { incarnation: FLOOR, charged, returned: 0 };
        let told = |entries: &[Entry]| {
            let report = Report::new(b"k", GRID, &seen(entries), 0).unwrap();
            report.cells.iter().flat_map(|(_, entries)| entries).copied().collect::<Vec<_>>()
        };
        let [one, two, three, four, five] = [1, 2, 3, 4, 5].map(|number| entry(0, number, 10));
        assert_eq!(told(&[one, two, three, four]), [one, two, three, four]);
        assert_eq!(told(&[one, two, three, four, five]), [three, four, five, floor(50)]);
        assert_eq!(told(&[one, two, three, four, five, floor(49)]), [three, four, five, floor(50)]);
        assert_eq!(told(&[one, two, three, four, five, floor(51)]), [three, four, five, floor(51)]);
        let most = |number| entry(0, number, MAX_COUNT - 1);
        assert_eq!(told(&[1, 2, 3, 4, 5].map(most)), [most(3), most(4), most(5), floor(MAX_COUNT - 1)]);
    }

    #[test]
    fn what_no_sound_node_sends_is_rejected() {
        let sound = Report::new(b"k", GRID, &seen(&[entry(0, 1, 5)]), 0).unwrap();
        let with = |change: &dyn Fn(&mut Report)| {
            let mut report = sound.clone();
            change(&mut report);
            report.import(RegionNumber(7)).unwrap_err()
        };
        assert_eq!(with(&|r| r.key = Box::default()), InvalidReport::Key);
        assert_eq!(with(&|r| r.key = b":lane".as_slice().into()), InvalidReport::Key);
        assert_eq!(with(&|r| r.grid = Grid::Fixed { width_ms: 0 }), InvalidReport::Grid);
        assert_eq!(with(&|r| r.grid = Grid::Rolling { window_ms: 1000, cells: 0 }), InvalidReport::Grid);
        assert_eq!(with(&|r| r.grid = Grid::Calendar { bounds: [0; 4] }), InvalidReport::Grid);
        assert_eq!(with(&|r| r.grid = Grid::Fixed { width_ms: 3000 }), InvalidReport::Cells);
        assert_eq!(with(&|r| r.cells = seen(&[entry(2, 1, 5)])), InvalidReport::Entries);
        assert_eq!(with(&|r| r.cells = seen(&[entry(0, 1, MAX_COUNT)])), InvalidReport::Entries);
        assert_eq!(with(&|r| r.cells = seen(&[entry(0, 1, 1); 5])), InvalidReport::Entries);
    }

    #[test]
    fn the_largest_report_that_a_sound_node_sends_is_imported_and_a_larger_one_is_rejected() {
        let with = |change: &dyn Fn(&mut Report)| {
            let mut report = Report { key: b"k".as_slice().into(), grid: GRID, cells: SeenCells::Empty };
            change(&mut report);
            report.import(RegionNumber(7)).err()
        };
        let key = |bytes| with(&|r| r.key = vec![b'k'; bytes].into());
        assert_eq!([4096, 4097].map(key), [None, Some(InvalidReport::Key)]);

        let grid = |grid| with(&|r| r.grid = grid);
        let too_short_or_long = Some(InvalidReport::Grid);
        let lengths =
            [(0, too_short_or_long), (1, None), (MAX_WINDOW_MS, None), (MAX_WINDOW_MS + 1, too_short_or_long)];
        for (ms, expected) in lengths {
            assert_eq!(grid(Grid::Fixed { width_ms: ms }), expected, "{ms}");
            assert_eq!(grid(Grid::Sliding { width_ms: ms }), expected, "{ms}");
            assert_eq!(grid(Grid::Rolling { window_ms: ms, cells: 20 }), expected, "{ms}");
        }
        assert_eq!(grid(Grid::Rolling { window_ms: 1000, cells: 21 }), Some(InvalidReport::Grid));

        let one = entry(0, 1, 1);
        let cells = |starts: &[u64]| {
            let cells: Vec<Cell> =
                starts.iter().map(|start_ms| Cell { start_ms: *start_ms, entries: vec![one] }).collect();
            with(&|r| (r.grid, r.cells) = (Grid::Fixed { width_ms: 1 }, cells.as_slice().into()))
        };
        assert_eq!([(1 << 48) - 1, 1 << 48].map(|start_ms| cells(&[start_ms])), [None, Some(InvalidReport::Cells)]);
        let many: Vec<u64> = (0..22).rev().collect();
        assert_eq!([&many[1..], &many].map(cells), [None, Some(InvalidReport::Cells)]);

        let entries = |entries: &[Entry]| with(&|r| r.cells = seen(entries));
        assert_eq!(entries(&[1, 2, 3, 4].map(|number| entry(0, number, MAX_COUNT - 1))), None);
        assert_eq!(entries(&[Entry { returned: MAX_COUNT - 1, ..one }]), None);
        assert_eq!(entries(&[Entry { returned: MAX_COUNT, ..one }]), Some(InvalidReport::Entries));
        assert_eq!(entries(&[entry(0, 0, 1)]), Some(InvalidReport::Entries));
    }
}
