//! The cells that a node saw of a window counter. It sends them with its next item, so that the store can restore
//! counts that it lost.

use std::slice;

use serde::{Deserialize, Serialize};

use super::cell::{Cell, Entry};

/// Cells of one window counter, the newest first. Most counters have one cell with one entry, which needs no
/// allocation. Those that regions share have one cell with an entry for each region, which needs one.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SeenCells {
    #[default]
    Empty,
    One {
        start_ms: u64,
        entry: Entry,
    },
    /// Never with one entry.
    OneCell {
        start_ms: u64,
        entries: Box<[Entry]>,
    },
    /// Never one cell.
    Many(Vec<Cell>),
}

impl SeenCells {
    /// One cell, which begins at `start_ms`, in milliseconds since the epoch.
    pub fn one_cell(start_ms: u64, entries: Vec<Entry>) -> Self {
        match *entries {
            [entry] => Self::One { start_ms, entry },
            _ => Self::OneCell { start_ms, entries: entries.into() },
        }
    }

    /// The beginning of each cell, in milliseconds since the epoch, and its entries.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &[Entry])> + Clone {
        let (one, many) = match self {
            Self::Empty => (None, [].as_slice()),
            Self::One { start_ms, entry } => (Some((*start_ms, slice::from_ref(entry))), [].as_slice()),
            Self::OneCell { start_ms, entries } => (Some((*start_ms, &**entries)), [].as_slice()),
            Self::Many(cells) => (None, cells.as_slice()),
        };
        one.into_iter().chain(many.iter().map(|cell| (cell.start_ms, cell.entries.as_slice())))
    }

    /// The beginning of the newest cell that the store's own region charged, in milliseconds since the epoch, 0 if
    /// there is none. The clocks of other regions do not advance the time of a counter.
    pub fn newest_ms(&self) -> u64 {
        // A store that is not ours may send them in another order.
        let own = self.iter().filter(|(_, entries)| entries.iter().any(Entry::is_own_count));
        own.map(|(start_ms, _)| start_ms).max().unwrap_or(0)
    }

    /// True if the cell that begins at `start_ms` is among them.
    pub fn contains(&self, start_ms: u64) -> bool {
        self.iter().any(|(start, _)| start == start_ms)
    }
}

impl From<Vec<Cell>> for SeenCells {
    fn from(mut cells: Vec<Cell>) -> Self {
        if cells.len() > 1 {
            return Self::Many(cells);
        }
        cells.pop().map_or(Self::Empty, |cell| Self::one_cell(cell.start_ms, cell.entries))
    }
}

impl From<&[Cell]> for SeenCells {
    fn from(cells: &[Cell]) -> Self {
        cells.to_vec().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;

    fn entry(n: u64) -> Entry {
        Entry { incarnation: Incarnation(n), charged: 5, returned: 2 }
    }

    fn cell(start_ms: u64, incarnations: &[u64]) -> Cell {
        Cell { start_ms, entries: incarnations.iter().map(|n| entry(*n)).collect() }
    }

    #[test]
    fn one_cell_with_one_entry_needs_no_allocation_and_one_with_more_needs_one() {
        assert_eq!(SeenCells::from(vec![cell(7, &[1])]), SeenCells::One { start_ms: 7, entry: entry(1) });
        let entries = [entry(1), entry(2)].into();
        assert_eq!(SeenCells::from(vec![cell(7, &[1, 2])]), SeenCells::OneCell { start_ms: 7, entries });
    }

    #[test]
    fn all_cells_are_kept_in_order() {
        for cells in [vec![], vec![cell(7, &[1])], vec![cell(7, &[1, 2])], vec![cell(8, &[1]), cell(7, &[1])]] {
            let seen = SeenCells::from(cells.as_slice());
            let kept: Vec<Cell> =
                seen.iter().map(|(start_ms, entries)| Cell { start_ms, entries: entries.to_vec() }).collect();
            assert_eq!(seen.newest_ms(), cells.first().map_or(0, |cell| cell.start_ms));
            assert_eq!(kept, cells);
            let contained = [6, 7, 8].map(|start_ms| seen.contains(start_ms));
            assert_eq!(contained, [6, 7, 8].map(|start_ms| cells.iter().any(|cell| cell.start_ms == start_ms)));
        }
    }
}
