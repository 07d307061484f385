//! A cell of a window counter: what each incarnation charged to it, merged by max and counted as the sum.

use serde::{Deserialize, Serialize};

use crate::ids::Incarnation;

/// A cell keeps this many incarnations apart. The rest it keeps as a sum, [`FLOOR`].
pub const MAX_ENTRIES: usize = 32;
/// No count grows past this, so that sums stay exact in doubles.
pub const MAX_COUNT: u64 = 1 << 52;
/// The entry that keeps what all incarnations charged together, at the least. Only a cell that has dropped entries has
/// it.
pub const FLOOR: Incarnation = Incarnation((1 << 48) - 1);

/// What one incarnation charged to a cell and returned. Both numbers only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The incarnation that charged, or [`FLOOR`].
    pub incarnation: Incarnation,
    pub charged: u64,
    pub returned: u64,
}

impl Entry {
    /// Hits that count.
    pub const fn used(&self) -> u64 {
        self.charged.saturating_sub(self.returned)
    }
}

/// One cell of a window.
///
/// A cell that has no room for all incarnations drops the oldest entries and keeps the sum as a floor. The sum over the
/// entries that it still has, and the floor, are each at most what was charged. The larger of the two counts. Therefore
/// no entry counts twice, however often it is dropped and merged again. The floor grows with every charge and shrinks
/// with every return. The cell may miss hits of a dropped incarnation that it never saw and that others merge later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Where the cell begins, in milliseconds since the epoch. It names the cell.
    pub start_ms: u64,
    /// At most [`MAX_ENTRIES`], the oldest first.
    pub entries: Vec<Entry>,
}

impl Cell {
    /// An empty cell.
    pub const fn new(start_ms: u64) -> Self {
        Self { start_ms, entries: Vec::new() }
    }

    /// Hits that count in this cell.
    pub fn used(&self) -> u64 {
        used(&self.entries)
    }

    /// Hits that were ever charged to this cell. [`u64::MAX`] if it has dropped entries.
    pub fn charged(&self) -> u64 {
        let has_dropped = self.entries.iter().any(|e| e.incarnation == FLOOR);
        if has_dropped { u64::MAX } else { self.entries.iter().map(|e| e.charged).sum() }
    }

    /// Merges entries that a node saw of this cell: the larger number of each wins. The entry of `current` is not
    /// dropped.
    pub fn merge(&mut self, seen: &[Entry], current: Incarnation) {
        for entry in seen {
            let own = self.entry(entry.incarnation);
            own.charged = own.charged.max(entry.charged);
            own.returned = own.returned.max(entry.returned);
        }
        self.fold(current);
    }

    /// Charges `tokens` to `incarnation`.
    pub fn charge(&mut self, incarnation: Incarnation, tokens: u64) {
        let add = |entry: &mut Entry| entry.charged = entry.charged.saturating_add(tokens).min(MAX_COUNT);
        add(self.entry(incarnation));
        self.find_mut(FLOOR).into_iter().for_each(add);
        self.fold(incarnation);
    }

    /// Takes back what `incarnation` has charged, never more than that.
    pub fn give_back(&mut self, incarnation: Incarnation, tokens: u64) {
        let Some(entry) = self.find_mut(incarnation).filter(|entry| entry.incarnation != FLOOR) else { return };
        let back = tokens.min(entry.used());
        entry.returned += back;
        if let Some(floor) = self.find_mut(FLOOR) {
            floor.returned = floor.returned.saturating_add(back).min(floor.charged);
        }
    }

    /// Takes back hits of any incarnation, the newest first. Returns how many.
    pub fn refund(&mut self, hits: u64) -> u64 {
        let mut left = hits;
        for entry in self.entries.iter_mut().rev().filter(|entry| entry.incarnation != FLOOR) {
            let back = left.min(entry.used());
            entry.returned += back;
            left -= back;
        }
        let back = hits - left;
        if let Some(floor) = self.find_mut(FLOOR) {
            floor.returned = floor.returned.saturating_add(back).min(floor.charged);
        }
        back
    }

    fn find_mut(&mut self, incarnation: Incarnation) -> Option<&mut Entry> {
        self.entries.iter_mut().find(|e| e.incarnation == incarnation)
    }

    fn entry(&mut self, incarnation: Incarnation) -> &mut Entry {
        let at = self.entries.iter().position(|e| e.incarnation == incarnation).unwrap_or_else(|| {
            self.entries.push(Entry { incarnation, charged: 0, returned: 0 });
            self.entries.len() - 1
        });
        &mut self.entries[at]
    }

    /// Drops the oldest entries, except that of `current`, and keeps the sum of all as the floor.
    fn fold(&mut self, current: Incarnation) {
        if self.entries.len() <= MAX_ENTRIES {
            return;
        }
        let all = sum(&self.entries);
        let floor = self.entry(FLOOR);
        floor.charged = floor.charged.saturating_add(all.saturating_sub(floor.used())).min(MAX_COUNT);
        while self.entries.len() > MAX_ENTRIES
            && let Some(oldest) = self.entries.iter().position(|e| e.incarnation != FLOOR && e.incarnation != current)
        {
            self.entries.remove(oldest);
        }
    }
}

/// Hits of the entries of one cell that count.
pub fn used(entries: &[Entry]) -> u64 {
    let floor = entries.iter().find(|e| e.incarnation == FLOOR).map_or(0, Entry::used);
    sum(entries).max(floor)
}

/// Hits of the entries that a cell keeps apart.
fn sum(entries: &[Entry]) -> u64 {
    entries.iter().filter(|e| e.incarnation != FLOOR).map(Entry::used).sum()
}

/// The cell that begins at `start_ms`, added if it is missing. `cells` are the newest first.
pub fn cell_mut(cells: &mut Vec<Cell>, start_ms: u64) -> &mut Cell {
    let at = cells.iter().position(|c| c.start_ms <= start_ms).unwrap_or(cells.len());
    if cells.get(at).is_none_or(|c| c.start_ms != start_ms) {
        cells.insert(at, Cell::new(start_ms));
    }
    &mut cells[at]
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Incarnation = Incarnation(7);

    fn cell(used: u64) -> Cell {
        Cell { start_ms: 0, entries: vec![Entry { incarnation: A, charged: used, returned: 0 }] }
    }

    #[test]
    fn a_merge_takes_the_maximum_of_each_incarnation_and_is_idempotent() {
        let mut cell = cell(5);
        let seen = [
            Entry { incarnation: A, charged: 9, returned: 2 },
            Entry { incarnation: Incarnation(8), charged: 4, returned: 4 },
        ];
        cell.merge(&seen, A);
        assert_eq!(cell.used(), 7);
        cell.merge(&seen, A);
        assert_eq!(cell.used(), 7);
    }

    #[test]
    fn a_cell_with_many_incarnations_keeps_the_sum_and_the_maximum_number_of_entries() {
        let mut cell = Cell::new(0);
        for n in 1..=100 {
            cell.charge(Incarnation(n), n);
            cell.give_back(Incarnation(n), 1);
        }
        assert_eq!(cell.entries.len(), MAX_ENTRIES);
        assert_eq!(cell.used(), (1..=100u64).sum::<u64>() - 100);
    }

    #[test]
    fn a_dropped_entry_that_is_merged_again_counts_once() {
        let mut cell = Cell::new(0);
        (1..=40).for_each(|n| cell.charge(Incarnation(n), 3));
        let earlier: Vec<Entry> =
            (1..=40).map(|n| Entry { incarnation: Incarnation(n), charged: 3, returned: 0 }).collect();
        let current = Incarnation(40);
        for _ in 0..100 {
            for seen in earlier.chunks(7) {
                cell.merge(seen, current);
            }
            assert_eq!(cell.used(), 120);
        }
        cell.charge(current, 5);
        cell.give_back(current, 2);
        assert_eq!(cell.used(), 123);
        assert!(cell.find_mut(current).is_some(), "the current incarnation is not dropped");
    }

    #[test]
    fn an_incarnation_returns_no_more_than_it_charged() {
        let mut cell = cell(5);
        cell.give_back(A, 9);
        cell.give_back(Incarnation(99), 1);
        assert_eq!(cell.used(), 0);
    }
}
