//! What a node last saw of a counter. It is small, because every resident key has one.

use crate::counter::{BucketSeen, Debt, Seen, SeenCells};
use crate::ids::Incarnation;

/// What the node last saw of a counter.
#[derive(Debug, Default)]
pub enum LastSeen {
    #[default]
    Nothing,
    /// Only the beginning of the counter's newest cell, in milliseconds: the last item was out of its bounds.
    NewestCell(u64),
    Window(SeenCells),
    WindowWithDebts(Box<WindowWithDebts>),
    Bucket(Box<BucketSeen>),
}

/// A window with debts that were charged to its cells and not confirmed.
#[derive(Debug)]
pub struct WindowWithDebts {
    cells: SeenCells,
    incarnation: Incarnation,
    debts: Vec<Debt>,
}

impl LastSeen {
    /// The beginning of the newest cell that was seen, in milliseconds.
    pub fn newest_ms(&self) -> u64 {
        match self {
            Self::NewestCell(start_ms) => *start_ms,
            Self::Window(cells) => cells.newest_ms(),
            Self::WindowWithDebts(seen) => seen.cells.newest_ms(),
            Self::Nothing | Self::Bucket(_) => 0,
        }
    }

    /// Takes note that an item was out of its bounds, and of the newest cell of the record, so that the next item has
    /// bounds around it. A record that has no newer cell was lost, or the clock has passed it.
    pub fn note_out_of_bounds(&mut self, newest_ms: u64) {
        if newest_ms > self.newest_ms() {
            *self = Self::NewestCell(newest_ms);
        } else if matches!(self, Self::NewestCell(_)) {
            *self = Self::Nothing;
        }
    }

    /// The cells of a window, the newest first.
    pub fn cells(&self) -> &SeenCells {
        match self {
            Self::Window(cells) => cells,
            Self::WindowWithDebts(seen) => &seen.cells,
            Self::Nothing | Self::NewestCell(_) | Self::Bucket(_) => &SeenCells::Empty,
        }
    }

    /// Debts that were charged and not confirmed, and the incarnation in which they were seen.
    pub fn debts(&self) -> (Incarnation, Vec<Debt>) {
        match self {
            Self::WindowWithDebts(seen) => (seen.incarnation, seen.debts.clone()),
            _ => (Incarnation(0), Vec::new()),
        }
    }

    pub fn bucket(&self) -> Option<BucketSeen> {
        if let Self::Bucket(seen) = self { Some(**seen) } else { None }
    }
}

impl From<Seen> for LastSeen {
    fn from(seen: Seen) -> Self {
        match seen {
            Seen::Bucket { incarnation, tat, .. } => Self::Bucket(Box::new(BucketSeen { incarnation, tat })),
            Seen::Window { cells, debts, .. } if debts.is_empty() => Self::Window(cells),
            Seen::Window { incarnation, cells, mut debts, .. } => {
                // Without its cell, a debt would look charged to a store that forgot both.
                debts.retain(|debt| cells.contains(debt.cell_ms));
                Self::WindowWithDebts(Box::new(WindowWithDebts { cells, incarnation, debts }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counter::{Cell, Entry, Hits};
    use crate::ids::DebtId;
    use crate::key::samples::INCARNATION;

    fn cells(starts_ms: &[u64]) -> SeenCells {
        let entries = || vec![Entry { incarnation: INCARNATION, charged: 5, returned: 2 }];
        let cells: Vec<Cell> =
            starts_ms.iter().map(|start_ms| Cell { start_ms: *start_ms, entries: entries() }).collect();
        cells.into()
    }

    fn window(starts_ms: &[u64], debts: Vec<Debt>) -> LastSeen {
        let cells = cells(starts_ms);
        LastSeen::from(Seen::Window { incarnation: INCARNATION, cell_ms: 2000, cell_end_ms: 3000, cells, debts })
    }

    fn debt(cell_ms: u64) -> Debt {
        Debt { cell_ms, id: DebtId(1), hits: Hits { charged: 3, returned: 0 } }
    }

    #[test]
    fn only_a_newer_cell_takes_the_place_of_the_counts_that_were_seen() {
        let cases = [(1999, 2000, 2), (2000, 2000, 2), (2001, 2001, 0)];
        for (newest_ms, noted_ms, counts) in cases {
            let mut seen = window(&[2000, 1000], Vec::new());
            seen.note_out_of_bounds(newest_ms);
            assert_eq!((seen.newest_ms(), seen.cells().iter().count()), (noted_ms, counts), "{newest_ms}");
        }
    }

    #[test]
    fn a_newest_cell_that_was_noted_is_forgotten_if_the_record_has_no_newer_one() {
        for (newest_ms, noted_ms) in [(1999, 0), (2000, 0), (2001, 2001)] {
            let mut seen = LastSeen::NewestCell(2000);
            seen.note_out_of_bounds(newest_ms);
            assert_eq!(seen.newest_ms(), noted_ms);
        }
    }

    #[test]
    fn debts_are_kept_with_their_cells_and_their_incarnation() {
        assert_eq!(window(&[2000, 1000], Vec::new()).debts(), (Incarnation(0), Vec::new()));
        let seen = window(&[2000, 1000], vec![debt(1000), debt(500), debt(2000)]);
        assert_eq!(seen.debts(), (INCARNATION, vec![debt(1000), debt(2000)]), "the cell of one is unknown");
        assert_eq!((seen.newest_ms(), seen.cells()), (2000, &cells(&[2000, 1000])));
    }
}
