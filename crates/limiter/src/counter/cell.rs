//! A cell of a window counter: what each incarnation charged to it, merged by max and counted as the sum.
//!
//! The incarnations of other regions are told apart by their [`RegionNumber`]. Only their own region charges them, and
//! a store merges what it hears of them.
//!
//! Under `escrow`, a cell also has notes: entries that count no hits, with numbers from [`FIRST_NOTE`] on. They merge
//! as all entries do. See [`Note`](super::notes::Note).

use serde::{Deserialize, Serialize};

use crate::ids::{Incarnation, RegionNumber};

/// A cell keeps this many incarnations of its own region apart. The rest it keeps as a sum, [`FLOOR`].
pub const MAX_ENTRIES: usize = 32;
/// A cell keeps this many entries of each other region, with the floor of that region.
pub const MAX_FOREIGN_ENTRIES: usize = 4;
/// Regions that can count together.
pub const MAX_REGIONS: usize = 8;
/// A cell keeps this many notes of each region.
pub const MAX_NOTES: usize = 16;
/// The numbers from here on are those of notes, apart from that of the floor. No incarnation has such a number.
pub const FIRST_NOTE: u64 = (1 << 48) - (1 << 18);
/// No count grows past this, so that sums stay exact in doubles.
pub const MAX_COUNT: u64 = 1 << 52;
/// The entry that keeps what all incarnations of a region charged together, at the least. Only a cell that has dropped
/// entries of that region has it, or one that another region sent. This is the one of the store's own region.
pub const FLOOR: Incarnation = Incarnation((1 << 48) - 1);

/// What one incarnation charged to a cell and returned. Both numbers only grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The incarnation that charged, or the floor of its region.
    pub incarnation: Incarnation,
    pub charged: u64,
    pub returned: u64,
}

impl Entry {
    /// Hits that count.
    pub const fn used(&self) -> u64 {
        self.charged.saturating_sub(self.returned)
    }

    /// True if it keeps what all incarnations of its region charged.
    pub const fn is_floor(&self) -> bool {
        self.incarnation.number() == FLOOR.0
    }

    /// True if it is a note, which counts no hits.
    pub const fn is_note(&self) -> bool {
        self.incarnation.number() >= FIRST_NOTE && !self.is_floor()
    }

    /// True if it belongs to the store's own region.
    pub fn is_own(&self) -> bool {
        self.incarnation.region() == RegionNumber::OWN
    }

    /// True if it has hits of the store's own region.
    pub fn is_own_count(&self) -> bool {
        self.is_own() && !self.is_note()
    }
}

/// One cell of a window.
///
/// A cell that has no room for all incarnations of a region drops the oldest entries and keeps the sum as a floor. The
/// sum over the entries that it still has, and the floor, are each at most what that region charged. The larger of the
/// two counts. Therefore no entry counts twice, however often it is dropped and merged again. The floor grows with
/// every charge and shrinks with every return. The cell may miss hits of a dropped incarnation that it never saw and
/// that others merge later.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cell {
    /// Where the cell begins, in milliseconds since the epoch. It names the cell.
    pub start_ms: u64,
    /// At most [`MAX_ENTRIES`] of the store's own region, then at most [`MAX_FOREIGN_ENTRIES`] of each other. Those of
    /// each region have the oldest first.
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

    /// Hits that count in this cell, of one region.
    pub fn used_by(&self, region: RegionNumber) -> u64 {
        used_by(&self.entries, region)
    }

    /// Hits that were ever charged to this cell. [`u64::MAX`] if it has dropped entries.
    pub fn charged(&self) -> u64 {
        let has_dropped = self.entries.iter().any(Entry::is_floor);
        let charged = || self.entries.iter().filter(|e| !e.is_note()).map(|e| e.charged).sum();
        if has_dropped { u64::MAX } else { charged() }
    }

    /// True if the store's own region has charged it.
    pub fn is_own(&self) -> bool {
        self.entries.iter().any(Entry::is_own_count)
    }

    /// Merges entries that a node saw of this cell, or that another region reported: the larger number of each wins.
    /// The entry of `current` is not dropped. Entries of a region for which there is no room are left out.
    pub fn merge(&mut self, seen: &[Entry], current: Incarnation) {
        self.merge_each(seen.iter().copied(), current);
    }

    /// Merges entries one by one, as [`Self::merge`] does.
    pub fn merge_each(&mut self, seen: impl Iterator<Item = Entry>, current: Incarnation) {
        for entry in seen {
            if !self.has_room_for(&entry) {
                continue;
            }
            let own = self.entry(entry.incarnation);
            own.charged = own.charged.max(entry.charged);
            own.returned = own.returned.max(entry.returned);
            self.fold(entry.incarnation.region(), current);
        }
    }

    fn has_room_for(&self, entry: &Entry) -> bool {
        let region = entry.incarnation.region();
        if entry.is_note() {
            let notes = self.entries.iter().filter(|e| e.is_note() && e.incarnation.region() == region);
            let mut known = notes.map(|e| e.incarnation);
            let count = known.clone().count();
            if count >= MAX_NOTES && !known.any(|note| note == entry.incarnation) {
                return false;
            }
        }
        if region == RegionNumber::OWN {
            return true;
        }
        let mut others: Vec<RegionNumber> = self.entries.iter().map(|e| e.incarnation.region()).collect();
        others.retain(|other| *other != RegionNumber::OWN);
        others.sort_unstable();
        others.dedup();
        others.contains(&region) || others.len() < MAX_REGIONS - 1
    }

    /// Charges `tokens` to `incarnation`.
    pub fn charge(&mut self, incarnation: Incarnation, tokens: u64) {
        let add = |entry: &mut Entry| entry.charged = entry.charged.saturating_add(tokens).min(MAX_COUNT);
        add(self.entry(incarnation));
        self.find_mut(FLOOR).into_iter().for_each(add);
        self.fold(RegionNumber::OWN, incarnation);
    }

    /// Takes back what `incarnation` has charged, never more than that.
    pub fn give_back(&mut self, incarnation: Incarnation, tokens: u64) {
        let Some(entry) = self.find_mut(incarnation).filter(|entry| !entry.is_floor() && !entry.is_note()) else {
            return;
        };
        let back = tokens.min(entry.used());
        entry.returned += back;
        if let Some(floor) = self.find_mut(FLOOR) {
            floor.returned = floor.returned.saturating_add(back).min(floor.charged);
        }
    }

    /// Takes back hits of any incarnation of the store's own region, the newest first. Returns how many.
    pub fn refund(&mut self, hits: u64) -> u64 {
        let mut left = hits;
        for entry in self.entries.iter_mut().rev().filter(|entry| entry.is_own_count() && !entry.is_floor()) {
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

    /// The entry of `incarnation`, added if it is missing.
    pub(super) fn entry(&mut self, incarnation: Incarnation) -> &mut Entry {
        let at = self.entries.iter().position(|e| e.incarnation == incarnation).unwrap_or_else(|| {
            let others = self.entries.iter().rev().take_while(|e| !e.is_own()).count();
            let is_own = incarnation.region() == RegionNumber::OWN;
            let at = self.entries.len() - if is_own { others } else { 0 };
            self.entries.insert(at, Entry { incarnation, charged: 0, returned: 0 });
            at
        });
        &mut self.entries[at]
    }

    /// Drops the oldest entries of a region, except that of `current`, and keeps the sum of all as the floor of the own
    /// region. Another region sends its floor by itself.
    fn fold(&mut self, region: RegionNumber, current: Incarnation) {
        let is_own = region == RegionNumber::OWN;
        let max = if is_own { MAX_ENTRIES } else { MAX_FOREIGN_ENTRIES };
        let of_region = |e: &Entry| e.incarnation.region() == region && !e.is_note();
        let mut count = self.entries.iter().filter(|e| of_region(e)).count();
        if count <= max {
            return;
        }
        if is_own {
            let all = used_of(&self.entries, region).0;
            count += usize::from(self.find_mut(FLOOR).is_none());
            let floor = self.entry(FLOOR);
            floor.charged = floor.charged.saturating_add(all.saturating_sub(floor.used())).min(MAX_COUNT);
        }
        while count > max
            && let Some(oldest) =
                self.entries.iter().position(|e| of_region(e) && !e.is_floor() && e.incarnation != current)
        {
            self.entries.remove(oldest);
            count -= 1;
        }
    }
}

/// Hits of the entries of one cell that count, of all regions.
pub fn used(entries: &[Entry]) -> u64 {
    let Some(first) = entries.first() else { return 0 };
    // Most cells have the entries of one region.
    let region = first.incarnation.region();
    if entries.iter().all(|e| e.incarnation.region() == region) {
        return used_by(entries, region);
    }
    let mut regions: Vec<RegionNumber> = entries.iter().map(|e| e.incarnation.region()).collect();
    regions.sort_unstable();
    regions.dedup();
    regions.into_iter().map(|region| used_by(entries, region)).sum()
}

/// Hits of the entries of one cell that count, of one region.
pub fn used_by(entries: &[Entry], region: RegionNumber) -> u64 {
    let (sum, floor) = used_of(entries, region);
    sum.max(floor)
}

/// Hits of the entries that a cell keeps apart of a region, and those of its floor.
fn used_of(entries: &[Entry], region: RegionNumber) -> (u64, u64) {
    let mut of_region = (0, 0);
    for entry in entries.iter().filter(|e| e.incarnation.region() == region && !e.is_note()) {
        let part = if entry.is_floor() { &mut of_region.1 } else { &mut of_region.0 };
        *part += entry.used();
    }
    of_region
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
            assert_eq!(cell.entries.len() as u64, n.min(MAX_ENTRIES as u64));
        }
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
    fn each_region_has_room_of_its_own_and_a_floor_of_its_own() {
        let mut cell = Cell::new(0);
        (1..=40).for_each(|n| cell.charge(Incarnation(n), 1));
        for region in 1..=7 {
            for (n, charged) in [(1, 10), (2, 10), (3, 10), (FLOOR.0, 50), (4, 10), (5, 10)] {
                let incarnation = Incarnation(n).of_region(RegionNumber(region));
                cell.merge(&[Entry { incarnation, charged, returned: 0 }], Incarnation(40));
            }
        }
        assert_eq!(cell.entries.len(), MAX_ENTRIES + 7 * MAX_FOREIGN_ENTRIES);
        assert_eq!(used_by(&cell.entries, RegionNumber::OWN), 40);
        assert_eq!(used_by(&cell.entries, RegionNumber(3)), 50);
        assert_eq!(cell.used(), 40 + 7 * 50);
        let stranger = Entry { incarnation: Incarnation(1).of_region(RegionNumber(8)), charged: 5, returned: 0 };
        cell.merge(&[stranger], Incarnation(40));
        assert_eq!(cell.used(), 40 + 7 * 50, "there is no room for an eighth other region");
    }

    #[test]
    fn only_hits_of_the_own_region_are_taken_back() {
        let mut cell = cell(5);
        let foreign = Incarnation(9).of_region(RegionNumber(4));
        cell.merge(&[Entry { incarnation: foreign, charged: 7, returned: 0 }], A);
        assert_eq!(cell.refund(20), 5);
        assert_eq!(cell.used(), 7);
    }

    #[test]
    fn an_incarnation_returns_no_more_than_it_charged() {
        let mut cell = cell(5);
        cell.give_back(A, 9);
        cell.give_back(Incarnation(99), 1);
        assert_eq!(cell.used(), 0);
    }

    #[test]
    fn entries_of_the_own_region_come_first_and_each_region_has_the_oldest_first() {
        let mut cell = Cell::new(0);
        let foreign = |n| Incarnation(n).of_region(RegionNumber(4));
        for incarnation in [foreign(1), A, foreign(2), Incarnation(8)] {
            cell.merge(&[Entry { incarnation, charged: 1, returned: 0 }], A);
        }
        let order: Vec<Incarnation> = cell.entries.iter().map(|entry| entry.incarnation).collect();
        assert_eq!(order, [A, Incarnation(8), foreign(1), foreign(2)]);
    }

    #[test]
    fn neither_the_floor_nor_a_note_can_be_given_back() {
        let mut cell = cell(5);
        for incarnation in [FLOOR, Incarnation(FIRST_NOTE)] {
            cell.merge(&[Entry { incarnation, charged: 9, returned: 0 }], A);
        }
        let before = cell.clone();
        cell.give_back(FLOOR, 1);
        cell.give_back(Incarnation(FIRST_NOTE), 1);
        assert_eq!(cell, before);
    }
}
