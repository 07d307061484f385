//! `strategy: escrow`: a bounded counter (Balegas and others 2015, "Extending Eventually Consistent Cloud Databases for
//! Enforcing Numeric Invariants"), one for each cell of a window.
//!
//! When a cell begins, its rights are split between the regions. A region may spend the rights that it has begun with,
//! and those that others gave it, less those that it gave away and those that it spent. All of these only grow, and
//! only one region raises each of them. So all regions together never spend more than the limit.

use serde::{Deserialize, Serialize};

use super::cell::{Cell, MAX_REGIONS};
use super::grid::{CellSpan, MAX_LIMIT};
use super::lane_epoch::{LaneEpoch, Spending};
use super::notes::Note;
use crate::ids::RegionNumber;
use crate::time::StoreTime;

/// The part of a cell that is left is counted in units of its length divided by this.
pub const FORECAST_PARTS: u64 = 1 << 10;
/// No forecast is more than this many times what was used.
pub const MAX_FORECAST: u64 = 1 << 6;

/// What an item says of the rights of its region.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Escrow {
    /// The rights that the region begins a cell with.
    pub part: u64,
    pub others: OtherRegions,
}

/// The regions that have rights, apart from the own one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OtherRegions([RegionNumber; MAX_REGIONS - 1]);

impl OtherRegions {
    pub fn iter(&self) -> impl Iterator<Item = RegionNumber> {
        self.0.into_iter().filter(|region| *region != RegionNumber::OWN)
    }
}

impl FromIterator<RegionNumber> for OtherRegions {
    /// Regions past [`MAX_REGIONS`] are left out.
    fn from_iter<I: IntoIterator<Item = RegionNumber>>(regions: I) -> Self {
        let mut all = Self::default();
        all.0.iter_mut().zip(regions).for_each(|(place, region)| *place = region);
        all
    }
}

impl Escrow {
    /// Hits that the region may still admit in a cell, and what keeps it from more.
    pub fn available(&self, cell: Option<&Cell>, start_ms: u64, epoch: LaneEpoch) -> (u64, Spending) {
        let spending = epoch.spending(start_ms, cell, self.others.iter());
        let left = if spending == Spending::Allowed { self.left(cell) } else { 0 };
        (left, spending)
    }

    /// Rights of a cell that the region has left. The rights that it has begun with stay, but a smaller limit applies
    /// at once.
    fn left(&self, cell: Option<&Cell>) -> u64 {
        let Some(cell) = cell else { return self.part };
        let begun = cell.note(Note::Rights).checked_sub(1).map_or(self.part, |begun| begun.min(self.part));
        let has = begun.saturating_add(cell.taken());
        has.saturating_sub(cell.given().saturating_add(cell.used_by(RegionNumber::OWN)))
    }

    /// Notes the rights that the region begins a cell with, at the first charge or transfer.
    pub fn begin(&self, cell: &mut Cell) {
        if cell.note(Note::Rights) == 0 {
            cell.set_note(Note::Rights, self.part.saturating_add(1));
        }
    }
}

/// Rights that a region can spare of the `available` ones. It keeps what it will probably need in the rest of the cell,
/// and at least a quarter. A region that asks because it denied gets half, whatever is needed.
pub fn spare(available: u64, used: u64, span: &CellSpan, now: StoreTime, denied: bool) -> u64 {
    if denied {
        return available.div_ceil(2);
    }
    available.saturating_sub(forecast(used, span, now).max(available.div_ceil(4)))
}

/// Hits of the rest of a cell, if they come as fast as the `used` ones. Early in a cell it is cautious.
pub fn forecast(used: u64, span: &CellSpan, now: StoreTime) -> u64 {
    let (now_ms, width_ms) = (now.millis(), span.end_ms.saturating_sub(span.start_ms));
    let elapsed_ms = now_ms.saturating_sub(span.start_ms) + width_ms / 16 + 1;
    let left = span.end_ms.saturating_sub(now_ms).min(width_ms).saturating_mul(FORECAST_PARTS) / elapsed_ms;
    used.min(MAX_LIMIT) * left.min(MAX_FORECAST * FORECAST_PARTS) / FORECAST_PARTS
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::Incarnation;

    const OTHER: RegionNumber = RegionNumber(7);
    const EPOCH: LaneEpoch = LaneEpoch { mark: 1, since_ms: 10, data_since_ms: 10, latest_ms: 10 };

    fn escrow(part: u64) -> Escrow {
        Escrow { part, others: [OTHER].into_iter().collect() }
    }

    fn left(escrow: Escrow, cell: &Cell) -> u64 {
        escrow.available(Some(cell), cell.start_ms, EPOCH).0
    }

    #[test]
    fn a_region_spends_what_it_has_begun_with_and_got_less_what_it_gave() {
        let mut cell = Cell::new(1000);
        assert_eq!(left(escrow(10), &cell), 10);
        escrow(10).begin(&mut cell);
        cell.charge(Incarnation(1), 4);
        cell.set_note(Note::GivenTo(OTHER), 3);
        cell.set_note(Note::TakenFrom(OTHER), 5);
        assert_eq!(left(escrow(10), &cell), 8);
    }

    #[test]
    fn a_larger_limit_waits_for_the_next_cell_and_a_smaller_one_does_not() {
        let mut cell = Cell::new(1000);
        escrow(10).begin(&mut cell);
        escrow(30).begin(&mut cell);
        assert_eq!(left(escrow(30), &cell), 10);
        assert_eq!(left(escrow(6), &cell), 6);
        let mut nothing = Cell::new(1000);
        escrow(0).begin(&mut nothing);
        assert_eq!(left(escrow(30), &nothing), 0);
    }

    #[test]
    fn a_store_that_has_forgotten_spends_nothing() {
        let cell = Cell::new(10);
        assert_eq!(escrow(10).available(Some(&cell), 10, EPOCH), (0, Spending::Lost));
    }

    #[test]
    fn a_region_keeps_what_it_will_need_unless_another_one_denies() {
        let span = CellSpan { start_ms: 0, end_ms: 16_000, oldest_ms: 0 };
        let at = StoreTime::from_millis;
        assert_eq!(spare(20, 0, &span, at(0), false), 15, "nothing is known yet");
        assert_eq!(spare(20, 0, &span, at(8000), false), 15);
        assert_eq!(spare(20, 9, &span, at(8000), false), 13, "9 hits in half of the time");
        assert_eq!(spare(6, 9, &span, at(8000), false), 0);
        assert_eq!(spare(6, 9, &span, at(8000), true), 3);
        assert_eq!(spare(1, 9, &span, at(8000), true), 1);
        assert_eq!(spare(1, 0, &span, at(8000), false), 0);
    }

    #[test]
    fn extreme_values_do_not_overflow() {
        let span = CellSpan { start_ms: 0, end_ms: u64::MAX, oldest_ms: 0 };
        for now in [StoreTime(0), StoreTime(u64::MAX)] {
            assert!(forecast(u64::MAX, &span, now) <= MAX_LIMIT * MAX_FORECAST);
        }
    }
}
