//! What a node last saw of a counter: small, for every resident key has it.

use crate::counter::{BucketSeen, Cell, Debt, Entry, Seen};

/// What the node last saw of the counter.
#[derive(Debug, Default)]
pub enum Remembered {
    #[default]
    Nothing,
    /// One cell that one source charged, as most counters have.
    One {
        start_ms: u64,
        entry: Entry,
    },
    Window(Box<SeenWindow>),
    Bucket(Box<BucketSeen>),
}

/// What was seen of a window.
#[derive(Debug)]
pub struct SeenWindow {
    /// The newest first.
    pub cells: Vec<Cell>,
    pub incarnation: u64,
    /// Debts that were charged to these cells and not confirmed.
    pub debts: Vec<Debt>,
}

impl Remembered {
    /// Beginning of the newest cell that was seen, in milliseconds.
    pub fn newest_ms(&self) -> u64 {
        match self {
            Self::One { start_ms, .. } => *start_ms,
            Self::Window(seen) => seen.cells.first().map_or(0, |cell| cell.start_ms),
            Self::Nothing | Self::Bucket(_) => 0,
        }
    }

    /// The cells of a window, the newest first.
    pub fn cells(&self) -> Vec<Cell> {
        match self {
            Self::One { start_ms, entry } => vec![Cell { start_ms: *start_ms, entries: vec![*entry] }],
            Self::Window(seen) => seen.cells.clone(),
            Self::Nothing | Self::Bucket(_) => Vec::new(),
        }
    }

    /// Debts that were charged and not confirmed, and the incarnation that they were seen in.
    pub fn debts(&self) -> (u64, Vec<Debt>) {
        if let Self::Window(seen) = self { (seen.incarnation, seen.debts.clone()) } else { (0, Vec::new()) }
    }

    pub fn bucket(&self) -> Option<BucketSeen> {
        if let Self::Bucket(seen) = self { Some(**seen) } else { None }
    }
}

impl From<Seen> for Remembered {
    fn from(seen: Seen) -> Self {
        match seen {
            Seen::Bucket { incarnation, tat, .. } => Self::Bucket(Box::new(BucketSeen { incarnation, tat })),
            Seen::Window { incarnation, cells, debts, .. } => match &*cells {
                [] => Self::Nothing,
                [Cell { start_ms, entries }] if entries.len() == 1 && debts.is_empty() => {
                    Self::One { start_ms: *start_ms, entry: entries[0] }
                }
                _ => {
                    // Without its cell a debt would look charged to a store that forgot both.
                    let of_these = |debt: &Debt| cells.iter().any(|cell| cell.start_ms == debt.cell_ms);
                    let debts = debts.into_iter().filter(of_these).collect();
                    Self::Window(Box::new(SeenWindow { cells, incarnation, debts }))
                }
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_seen_is_remembered_whole() {
        let entry = |source| Entry { source, charged: 5, returned: 2 };
        let cell = |start_ms, sources: &[u64]| Cell { start_ms, entries: sources.iter().map(|s| entry(*s)).collect() };
        for cells in [vec![], vec![cell(7, &[1])], vec![cell(7, &[1, 2])], vec![cell(8, &[1]), cell(7, &[1])]] {
            let newest = cells.first().map_or(0, |cell| cell.start_ms);
            let seen =
                Seen::Window { incarnation: 1, cell_ms: 7, cell_end_ms: 8, cells: cells.clone(), debts: Vec::new() };
            let remembered = Remembered::from(seen);
            assert_eq!((remembered.newest_ms(), remembered.cells()), (newest, cells));
        }
    }
}
