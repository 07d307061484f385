//! What a cell remembers beside its hits under `escrow`: the rights of the region, and what regions gave each other.
//!
//! A note is an entry of the cell, with a number that no incarnation has. Its value only grows, so notes merge by
//! maximum, in any order and any number of times.

use super::cell::{Cell, Entry, FIRST_NOTE, MAX_COUNT};
use crate::ids::{Incarnation, RegionNumber};

/// A note of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// Rights that the region has begun the cell with. Its value is one more, so that no rights differ from no note.
    Rights,
    /// Rights that this region gave to another.
    GivenTo(RegionNumber),
    /// Rights that another region gave to this one.
    TakenFrom(RegionNumber),
    /// The epoch of this region's primary to which another region said what it knows.
    Confirmed { by: RegionNumber },
    /// The epoch of another region's primary to which this one said what it knows. Rights that an earlier primary of
    /// that region gave are rejected from then on.
    Fenced(RegionNumber),
}

/// Each kind of note has 65,536 numbers. Notes of rights that this region gave are numbered by the other region.
const NOTE_TRANSFER: u64 = FIRST_NOTE;
pub const NOTE_CONFIRMED: u64 = FIRST_NOTE + (1 << 16);
pub const NOTE_FENCED: u64 = FIRST_NOTE + (2 << 16);
pub const NOTE_RIGHTS: u64 = FIRST_NOTE + (3 << 16);

impl Note {
    /// The name of the entry.
    const fn incarnation(self) -> Incarnation {
        let (number, region) = match self {
            Self::Rights => (NOTE_RIGHTS, RegionNumber::OWN),
            Self::GivenTo(to) => (NOTE_TRANSFER + to.0 as u64, RegionNumber::OWN),
            Self::TakenFrom(from) => (NOTE_TRANSFER, from),
            Self::Confirmed { by } => (NOTE_CONFIRMED, by),
            Self::Fenced(region) => (NOTE_FENCED, region),
        };
        Incarnation(number).of_region(region)
    }
}

impl Cell {
    /// The value of a note, 0 without it.
    pub fn note(&self, note: Note) -> u64 {
        let name = note.incarnation();
        self.entries.iter().find(|entry| entry.incarnation == name).map_or(0, |entry| entry.charged)
    }

    /// Raises the value of a note.
    pub fn set_note(&mut self, note: Note, value: u64) {
        let incarnation = note.incarnation();
        if value > self.note(note) {
            self.merge(&[Entry { incarnation, charged: value.min(MAX_COUNT), returned: 0 }], incarnation);
        }
    }

    /// Rights that the region gave away.
    pub fn given(&self) -> u64 {
        self.sum_of(|entry| entry.is_own() && is_transfer(entry))
    }

    /// Rights that the region got from others.
    pub fn taken(&self) -> u64 {
        self.sum_of(|entry| !entry.is_own() && is_transfer(entry))
    }

    fn sum_of(&self, counts: impl Fn(&Entry) -> bool) -> u64 {
        self.entries.iter().filter(|entry| counts(entry)).map(|entry| entry.charged).fold(0, u64::saturating_add)
    }
}

/// True if the entry notes rights that one region gave another.
fn is_transfer(entry: &Entry) -> bool {
    entry.is_note() && entry.incarnation.number() < NOTE_CONFIRMED
}

/// True if the entry notes the rights that the region has begun the cell with.
pub fn is_rights(entry: &Entry) -> bool {
    entry.is_own() && entry.incarnation.number() == NOTE_RIGHTS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn notes_are_kept_apart_and_count_no_hits() {
        let mut cell = Cell::new(0);
        let (a, b) = (RegionNumber(3), RegionNumber(u16::MAX));
        let notes = [
            Note::Rights,
            Note::GivenTo(a),
            Note::GivenTo(b),
            Note::TakenFrom(a),
            Note::TakenFrom(b),
            Note::Confirmed { by: a },
            Note::Fenced(a),
        ];
        for (value, note) in (1..).zip(notes) {
            cell.set_note(note, value);
        }
        let values: Vec<u64> = notes.into_iter().map(|note| cell.note(note)).collect();
        assert_eq!(values, [1, 2, 3, 4, 5, 6, 7]);
        assert_eq!((cell.given(), cell.taken(), cell.used(), cell.charged()), (5, 9, 0, 0));
        assert!(!cell.is_own());
        cell.set_note(Note::GivenTo(a), 1);
        assert_eq!(cell.note(Note::GivenTo(a)), 2, "a value only grows");
    }

    #[test]
    fn a_cell_keeps_a_bounded_number_of_notes_beside_all_its_hits() {
        let mut cell = Cell::new(0);
        (1..=50).for_each(|n| cell.set_note(Note::GivenTo(RegionNumber(n)), 1));
        assert_eq!(cell.given(), 16);
        (1..=40).for_each(|n| cell.charge(Incarnation(n), 1));
        assert_eq!((cell.used(), cell.given()), (40, 16));
        cell.set_note(Note::TakenFrom(RegionNumber(3)), 5);
        assert_eq!(cell.taken(), 5, "another region has room of its own");
    }

    #[test]
    fn a_note_of_0_is_not_kept() {
        let mut cell = Cell::new(0);
        cell.set_note(Note::GivenTo(RegionNumber(3)), 0);
        assert_eq!(cell, Cell::new(0));
    }
}
