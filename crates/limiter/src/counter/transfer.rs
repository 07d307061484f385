//! How rights move from one region to another: the giver debits them, then the taker learns of them.
//!
//! A transfer belongs to one cell, and counts in no other. What a region gave another is one growing number, so a
//! message that is lost, repeated or late does no harm: the next one says it again.
//!
//! After another server has become a primary of the giver, that primary asks every other region what it got
//! ([`LaneEpoch`]). A region that has answered fences the earlier primary off: it rejects what that
//! gave, because the new primary may not know of it.

use serde::{Deserialize, Serialize};

use super::batch_context::BatchContext;
use super::cell::cell_mut;
use super::escrow::{Escrow, spare};
use super::grid::{CellSpan, Grid};
use super::lane_epoch::LaneEpoch;
use super::notes::Note;
use super::window_record::WindowRecord;
use crate::ids::RegionNumber;
use crate::time::StoreTime;

/// A transfer begins no further cell in a record that has so many. More are not needed: the shortest window is a
/// quarter of the step of a lane's time.
pub const MAX_TRANSFER_CELLS: usize = 8;

/// A region asks this one for rights.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Give {
    pub to: RegionNumber,
    /// Where the cell begins, in milliseconds since the epoch.
    pub cell_ms: u64,
    /// Rights that the other region wants. It gets at most this many, and perhaps none.
    pub wanted: u64,
    /// The other region has denied for want of rights.
    pub denied: bool,
    /// All rights of the cell that the other region knows to have received from this one. What was given beyond that is
    /// on its way, and part of what is wanted.
    pub received: u64,
    /// The epoch of the primary of the other region, if that needs to hear what this region got. 0 otherwise.
    pub epoch_ms: u64,
}

/// What a region answers to [`Give`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The epoch of the primary that gave.
    pub epoch_ms: u64,
    /// All rights of the cell that the region ever gave the one that asks.
    pub given: u64,
    /// All rights of the cell that the region has received from the one that asks.
    pub received: u64,
    /// True if the region takes no more from an earlier primary of the one that asks.
    pub fenced: bool,
}

/// Another region has answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Take {
    pub from: RegionNumber,
    /// Where the cell begins, in milliseconds since the epoch.
    pub cell_ms: u64,
    pub given: Given,
    /// The epoch that the question named.
    pub asked_ms: u64,
}

impl WindowRecord {
    /// Gives rights to another region, as many as this one can spare. Only the current cell has rights to give: the
    /// next one has not begun here.
    pub fn give(&mut self, give: &Give, escrow: &Escrow, span: &CellSpan, now: StoreTime, cx: BatchContext) -> Given {
        let mut given = Given { epoch_ms: cx.epoch.since_ms, ..Given::default() };
        if !self.may_have(span, give.cell_ms) {
            return given;
        }
        let cell = cell_mut(&mut self.cells, give.cell_ms);
        if give.epoch_ms > 0 {
            cell.set_note(Note::Fenced(give.to), give.epoch_ms);
            given.fenced = true;
        }
        // A store that has forgotten what it gave hears it from the one that has it.
        cell.set_note(Note::GivenTo(give.to), give.received);
        let on_its_way = cell.note(Note::GivenTo(give.to)) - give.received;
        if give.cell_ms == span.start_ms {
            let (available, _) = escrow.available(Some(cell), span.start_ms, cx.epoch);
            let used = cell.used_by(RegionNumber::OWN);
            let wanted = give.wanted.saturating_sub(on_its_way);
            let moved = spare(available, used, span, now, give.denied).min(wanted);
            if moved > 0 {
                escrow.begin(cell);
                cell.set_note(Note::GivenTo(give.to), cell.note(Note::GivenTo(give.to)) + moved);
            }
        }
        given.given = cell.note(Note::GivenTo(give.to));
        given.received = cell.note(Note::TakenFrom(give.to));
        given
    }

    /// Takes the rights that another region gave, and what it received of those that this one gave. Returns the rights
    /// that are new.
    pub fn take(&mut self, take: &Take, span: &CellSpan) -> u64 {
        if !self.may_have(span, take.cell_ms) {
            return 0;
        }
        let Take { from, given, asked_ms, .. } = *take;
        let cell = cell_mut(&mut self.cells, take.cell_ms);
        let before = cell.taken();
        if given.epoch_ms >= cell.note(Note::Fenced(from)) {
            cell.set_note(Note::TakenFrom(from), given.given);
        }
        cell.set_note(Note::GivenTo(from), given.received);
        if given.fenced {
            cell.set_note(Note::Confirmed { by: from }, asked_ms);
        }
        cell.taken() - before
    }

    /// True if a transfer may touch a cell: the current one, or the next.
    fn may_have(&self, span: &CellSpan, start_ms: u64) -> bool {
        let is_known = self.cells.iter().any(|cell| cell.start_ms == start_ms);
        let has_room = is_known || self.cells.len() < MAX_TRANSFER_CELLS;
        has_room && (start_ms == span.start_ms || start_ms == span.end_ms)
    }

    /// Drops cells that have only notes, and that were over when the lane was last served. No clock finds them again.
    /// Cells with hits of the region stay: the grid is that of another region.
    pub fn drop_notes(&mut self, grid: &Grid, epoch: LaneEpoch) {
        let Some(span) = grid.span_at(StoreTime::from_millis(epoch.latest_ms)) else { return };
        self.cells.retain(|cell| cell.start_ms >= span.oldest_ms || cell.is_own());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BatchId, HolderId, Incarnation};

    const OTHER: RegionNumber = RegionNumber(7);
    const SPAN: CellSpan = CellSpan { start_ms: 5000, end_ms: 6000, oldest_ms: 5000 };
    const EPOCH: LaneEpoch = LaneEpoch { mark: 1, since_ms: 10, data_since_ms: 10, latest_ms: 5000 };

    fn take(cell_ms: u64, given: u64) -> Take {
        Take { from: OTHER, cell_ms, given: Given { epoch_ms: 10, given, ..Given::default() }, asked_ms: 0 }
    }

    fn starts(record: &WindowRecord) -> Vec<u64> {
        record.cells.iter().map(|cell| cell.start_ms).collect()
    }

    #[test]
    fn what_another_region_gave_is_gained_once() {
        let mut record = WindowRecord::new(Incarnation(1));
        let gained = [3, 3, 5].map(|given| record.take(&take(5000, given), &SPAN));
        assert_eq!(gained, [3, 0, 2]);
    }

    #[test]
    fn a_record_with_many_cells_begins_no_further_one_for_a_transfer() {
        let mut record = WindowRecord::new(Incarnation(1));
        for start_ms in 1..=MAX_TRANSFER_CELLS as u64 {
            cell_mut(&mut record.cells, start_ms).charge(Incarnation(1), 1);
        }
        assert_eq!((record.take(&take(6000, 3), &SPAN), starts(&record).len()), (0, MAX_TRANSFER_CELLS));
        record.cells.pop();
        assert_eq!((record.take(&take(6000, 3), &SPAN), starts(&record).len()), (3, MAX_TRANSFER_CELLS));
        assert_eq!(record.take(&take(6000, 5), &SPAN), 2, "it has this cell");
    }

    #[test]
    fn cells_that_are_over_and_have_only_notes_are_dropped() {
        let mut record = WindowRecord::new(Incarnation(1));
        for start_ms in [3000, 4000, 5000] {
            cell_mut(&mut record.cells, start_ms).set_note(Note::GivenTo(OTHER), 1);
        }
        cell_mut(&mut record.cells, 3000).charge(Incarnation(1), 1);
        record.drop_notes(&Grid::Fixed { width_ms: 1000 }, EPOCH);
        assert_eq!(starts(&record), [5000, 3000]);
    }

    #[test]
    fn a_region_that_asks_for_a_cell_that_is_over_gets_nothing_and_hears_of_which_epoch() {
        let (now, not_after, epoch) = (StoreTime::from_millis(5000), None, EPOCH);
        let cx = BatchContext { now, replication: 1, holder: HolderId(1), batch: BatchId(1), not_after, epoch };
        let escrow = Escrow { part: 10, others: [OTHER].into_iter().collect() };
        let mut record = WindowRecord::new(Incarnation(1));
        let give = Give { to: OTHER, cell_ms: 4000, wanted: 3, denied: true, received: 0, epoch_ms: 0 };
        let given = record.give(&give, &escrow, &SPAN, now, cx);
        assert_eq!(given, Given { epoch_ms: 10, ..Given::default() });
        assert_eq!(record.cells, []);
    }
}
