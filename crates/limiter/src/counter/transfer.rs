//! How rights move from one region to another: the giver debits them, then the taker learns of them.
//!
//! A transfer belongs to one cell, and counts in no other. What a region gave another is one growing number, so a message
//! that is lost, repeated or late does no harm: the next one says it again.
//!
//! After another server has become a primary of the giver, that primary asks every other region what it got
//! ([`LaneEpoch`](super::LaneEpoch)). A region that has answered rejects what an earlier primary gave: it may be a
//! transfer that the new primary does not know of.

use serde::{Deserialize, Serialize};

use super::batch_context::BatchContext;
use super::cell::cell_mut;
use super::escrow::{Escrow, spare};
use super::grid::CellSpan;
use super::notes::Note;
use super::window_record::WindowRecord;
use crate::ids::RegionNumber;
use crate::time::StoreTime;

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
    /// The epoch of the primary of the other region, if that needs to hear what this region got. 0 otherwise.
    pub epoch_ms: u64,
}

/// What a region answers to [`Give`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Given {
    /// The epoch of the primary that gave.
    pub epoch_ms: u64,
    /// All rights of the cell that the region ever gave the one that asks.
    pub total: u64,
    /// All rights of the cell that the region knows to have got from the one that asks.
    pub known: u64,
    /// True if the region will take no more from an earlier primary of the one that asks.
    pub answered: bool,
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
    /// Gives rights to another region, as many as this one can spare. Only the current cell has rights to give: the next
    /// one has not begun here.
    pub fn give(&mut self, give: &Give, escrow: &Escrow, span: &CellSpan, now: StoreTime, cx: BatchContext) -> Given {
        let mut given = Given { epoch_ms: cx.epoch.since_ms, ..Given::default() };
        self.drop_cells_before(span.oldest_ms);
        if !may_have(span, give.cell_ms) {
            return given;
        }
        let cell = cell_mut(&mut self.cells, give.cell_ms);
        if give.epoch_ms > 0 {
            cell.set_note(Note::Answered(give.to), give.epoch_ms);
            given.answered = true;
        }
        if give.cell_ms == span.start_ms {
            let (available, _) = escrow.available(Some(cell), span.start_ms, cx.epoch);
            let used = cell.used_by(RegionNumber::OWN);
            let moved = spare(available, used, span, now, give.denied).min(give.wanted);
            if moved > 0 {
                escrow.begin(cell);
                cell.set_note(Note::GivenTo(give.to), cell.note(Note::GivenTo(give.to)) + moved);
            }
        }
        given.total = cell.note(Note::GivenTo(give.to));
        given.known = cell.note(Note::TakenFrom(give.to));
        given
    }

    /// Takes the rights that another region gave, and what it knows of those that this one gave.
    pub fn take(&mut self, take: &Take, span: &CellSpan) {
        self.drop_cells_before(span.oldest_ms);
        if !may_have(span, take.cell_ms) {
            return;
        }
        let Take { from, given, asked_ms, .. } = *take;
        let cell = cell_mut(&mut self.cells, take.cell_ms);
        if given.epoch_ms >= cell.note(Note::Answered(from)) {
            cell.set_note(Note::TakenFrom(from), given.total);
        }
        cell.set_note(Note::GivenTo(from), given.known);
        if given.answered {
            cell.set_note(Note::Confirmed { by: from }, asked_ms);
        }
    }
}

/// True if a record may keep a cell, as in imports.
fn may_have(span: &CellSpan, start_ms: u64) -> bool {
    (span.oldest_ms..=span.end_ms).contains(&start_ms)
}
