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
