//! What a primary knows of its own past: since when it is the primary of a lane, and when the lane's data began.
//!
//! What other regions told, and rights that they gave, are safe only in a store that remembers what was spent and given
//! away. A primary with a new replication id may have lost the last of it. A primary without a record of its lane has
//! lost everything. A clock that steps back finds cells whose records have expired. A store keeps one [`LaneEpoch`] for
//! each lane, beside the lane's counters.

use serde::{Deserialize, Serialize};

use super::cell::Cell;
use super::notes::Note;
use crate::ids::RegionNumber;
use crate::time::StoreTime;

/// How far the newest time of a lane may be behind the truth, in milliseconds.
pub const LANE_TIME_STEP_MS: u64 = 1000;
/// A record under `escrow` is kept for so long after its cell, in milliseconds. Nodes visit each lane every ten
/// seconds. So when a record is gone, its lane knows that the cell is over, and a clock that steps back does not find
/// it again.
pub const KEPT_AFTER_CELL_MS: u64 = 30_000;

/// The record of a lane.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaneEpoch {
    /// The mark of the replication id of the primary.
    pub mark: u64,
    /// When this primary first served the lane, in milliseconds since the epoch. It grows with each new primary, so it
    /// names the primary's time in office.
    pub since_ms: u64,
    /// When the record was first written, in milliseconds since the epoch. What was counted before is forgotten.
    pub data_since_ms: u64,
    /// The newest time at which the lane was served, in milliseconds since the epoch. It may lag behind by
    /// [`LANE_TIME_STEP_MS`].
    pub latest_ms: u64,
}

/// Whether a region may spend its rights of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Spending {
    Allowed,
    /// Not until every other region has said which transfers of this region it knows, to a primary of this epoch
    /// ([`LaneEpoch::since_ms`]).
    Unconfirmed {
        epoch_ms: u64,
    },
    /// Never in this cell: the store has forgotten what was spent.
    Lost,
}

impl LaneEpoch {
    /// The record that a primary leaves which serves the lane now. `stored` is what it finds.
    pub fn arrive(stored: Option<Self>, mark: u64, now: StoreTime) -> Self {
        let now_ms = now.millis();
        let Some(mut lane) = stored else {
            return Self { mark, since_ms: now_ms, data_since_ms: now_ms, latest_ms: now_ms };
        };
        if now_ms >= lane.latest_ms + LANE_TIME_STEP_MS {
            lane.latest_ms = now_ms;
        }
        if lane.mark != mark {
            (lane.mark, lane.since_ms) = (mark, now_ms.max(lane.latest_ms).max(lane.since_ms + 1));
        }
        lane
    }

    /// Whether the region may spend its rights of a cell. `others` are the other regions.
    pub fn spending(&self, start_ms: u64, cell: Option<&Cell>, others: impl Iterator<Item = RegionNumber>) -> Spending {
        // Without other regions, nobody else has a right.
        let mut others = others.peekable();
        if others.peek().is_none() {
            return Spending::Allowed;
        }
        if start_ms <= self.data_since_ms {
            return Spending::Lost;
        }
        let confirmed = |other| cell.map_or(0, |cell| cell.note(Note::Confirmed { by: other })) >= self.since_ms;
        if start_ms <= self.since_ms && !others.all(confirmed) {
            return Spending::Unconfirmed { epoch_ms: self.since_ms };
        }
        Spending::Allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OTHER: RegionNumber = RegionNumber(7);

    fn ms(ms: u64) -> StoreTime {
        StoreTime::from_millis(ms)
    }

    #[test]
    fn a_lane_without_a_record_has_lost_the_cells_that_had_begun() {
        let epoch = LaneEpoch::arrive(None, 1, ms(5500));
        let spending = |start_ms| epoch.spending(start_ms, None, [OTHER].into_iter());
        assert_eq!([5000, 6000].map(spending), [Spending::Lost, Spending::Allowed]);
        assert_eq!(epoch.spending(5000, None, std::iter::empty()), Spending::Allowed, "there are no other regions");
    }

    #[test]
    fn a_new_primary_spends_nothing_of_older_cells_until_every_other_region_has_confirmed() {
        let first = LaneEpoch::arrive(None, 1, ms(100));
        assert_eq!(LaneEpoch::arrive(Some(first), 1, ms(900)), first);
        assert_eq!(LaneEpoch::arrive(Some(first), 1, ms(1100)), LaneEpoch { latest_ms: 1100, ..first });
        let epoch = LaneEpoch::arrive(Some(first), 2, ms(5500));
        let others = || [OTHER, RegionNumber(8)].into_iter();
        let mut cell = Cell::new(5000);
        assert_eq!(epoch.spending(5000, Some(&cell), others()), Spending::Unconfirmed { epoch_ms: 5500 });
        cell.set_note(Note::Confirmed { by: OTHER }, 5500);
        cell.set_note(Note::Confirmed { by: RegionNumber(8) }, 100);
        assert_eq!(epoch.spending(5000, Some(&cell), others()), Spending::Unconfirmed { epoch_ms: 5500 });
        cell.set_note(Note::Confirmed { by: RegionNumber(8) }, 5500);
        assert_eq!(epoch.spending(5000, Some(&cell), others()), Spending::Allowed);
        assert_eq!(epoch.spending(6000, None, others()), Spending::Allowed);
    }

    #[test]
    fn epochs_grow_although_a_clock_steps_back() {
        let first = LaneEpoch::arrive(None, 1, ms(5000));
        let second = LaneEpoch::arrive(Some(first), 2, ms(3000));
        assert!(second.since_ms > first.since_ms && second.data_since_ms == first.data_since_ms);
    }
}
