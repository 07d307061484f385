//! What a node last saw of a counter: small, for every resident key has it.

use super::batch::{BucketSeen, Seen};
use super::window::{Cell, Entry};

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
    /// The newest cell first.
    Window(Box<[Cell]>),
    Bucket(Box<BucketSeen>),
}

impl Remembered {
    /// Beginning of the newest cell that was seen, in milliseconds.
    pub fn newest_ms(&self) -> u64 {
        match self {
            Self::One { start_ms, .. } => *start_ms,
            Self::Window(cells) => cells.first().map_or(0, |cell| cell.start_ms),
            Self::Nothing | Self::Bucket(_) => 0,
        }
    }

    /// The cells of a window, the newest first.
    pub fn cells(&self) -> Vec<Cell> {
        match self {
            Self::One { start_ms, entry } => vec![Cell { start_ms: *start_ms, entries: vec![*entry] }],
            Self::Window(cells) => cells.to_vec(),
            Self::Nothing | Self::Bucket(_) => Vec::new(),
        }
    }

    pub fn bucket(&self) -> Option<BucketSeen> {
        if let Self::Bucket(seen) = self { Some(**seen) } else { None }
    }
}

impl From<Seen> for Remembered {
    fn from(seen: Seen) -> Self {
        match seen {
            Seen::Bucket { incarnation, tat, .. } => Self::Bucket(Box::new(BucketSeen { incarnation, tat })),
            Seen::Window { cells, .. } => match &*cells {
                [] => Self::Nothing,
                [Cell { start_ms, entries }] if entries.len() == 1 => {
                    Self::One { start_ms: *start_ms, entry: entries[0] }
                }
                _ => Self::Window(cells.into()),
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
            let seen = Seen::Window { incarnation: 1, cell_ms: 7, cell_end_ms: 8, cells: cells.clone() };
            let remembered = Remembered::from(seen);
            assert_eq!((remembered.newest_ms(), remembered.cells()), (newest, cells));
        }
    }
}
