//! When a region asks the others for rights, and for how many.

use serde::{Deserialize, Serialize};

use crate::counter::{CellSpan, Counter, Escrow, Give, Grid, Item, MAX_LIMIT, forecast};
use crate::ids::RegionNumber;
use crate::rules::MAX_WINDOW_MS;
use crate::time::StoreTime;

/// Names of counters are shorter.
const MAX_KEY_BYTES: usize = 1 << 12;

/// Rights that a region wants of one key.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// The name of the counter.
    pub key: Box<[u8]>,
    pub grid: Grid,
    /// The limit in force where they are wanted.
    pub limit: u64,
    /// Where the cell begins, in milliseconds since the epoch.
    pub cell_ms: u64,
    pub hits: u64,
    /// The region has denied hits for want of rights.
    pub denied: bool,
    /// Rights of the cell that the region knows to have received from the one that is asked.
    pub received: u64,
    /// The epoch of the primary, if that needs to hear what the other regions got. 0 otherwise.
    pub epoch_ms: u64,
}

/// What a region knows of its rights of one cell.
#[derive(Clone, Copy, Debug)]
pub struct Holding {
    /// Rights that are left.
    pub available: u64,
    /// Hits of this region in the cell.
    pub used: u64,
    /// Hits of this region in the cell before; 0 if that is not known.
    pub used_before: u64,
    /// Hits that were denied just now.
    pub denied: u64,
    pub span: CellSpan,
    pub now: StoreTime,
}

/// How many more rights the region wants.
///
/// It asks when half of what it had is spent, or when it has less than it used in the cell before. Then it asks for
/// what it will probably need. After a denial it asks for no less than was denied.
pub fn wanted(holding: &Holding) -> u64 {
    let Holding { available, used, used_before, denied, ref span, now } = *holding;
    let as_before = used_before.saturating_sub(used);
    let needed = forecast(used, span, now).max(as_before).saturating_sub(available);
    let runs_low = available <= used / 2 || available < as_before;
    if denied > 0 {
        denied.max(needed)
    } else if runs_low {
        needed
    } else {
        0
    }
}

/// Why a want of another region is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidWant {
    #[error("expected a counter name of 1 to 4096 bytes that does not begin with a colon")]
    Key,
    #[error("expected a fixed window of 1 ms to 400 days, or a calendar")]
    Grid,
    #[error("expected a cell that begins before the year 10889")]
    Cell,
    #[error("expected a limit and hits of at most 2^36")]
    Limit,
}

impl Want {
    /// The item that gives rights to the region `to`.
    ///
    /// # Errors
    /// When the want is not what a sound node sends.
    pub fn give(self, to: RegionNumber, escrow: Escrow) -> Result<Item, InvalidWant> {
        self.check()?;
        let Self { key, grid, cell_ms, hits: wanted, denied, received, epoch_ms, .. } = self;
        let give = Give { to, cell_ms, wanted, denied, received, epoch_ms };
        Ok(Item { key, asks: Vec::new(), refund: 0, counter: Counter::Give { grid, escrow, give } })
    }

    fn check(&self) -> Result<(), InvalidWant> {
        // Names of the store's own records begin with a colon.
        if self.key.is_empty() || self.key.len() > MAX_KEY_BYTES || self.key.starts_with(b":") {
            return Err(InvalidWant::Key);
        }
        let sound = match self.grid {
            Grid::Fixed { width_ms } => (1..=MAX_WINDOW_MS).contains(&width_ms),
            Grid::Calendar { bounds } => {
                bounds.is_sorted() && bounds[3] < 1 << 48 && bounds[3] - bounds[0] <= 4 * MAX_WINDOW_MS
            }
            Grid::Sliding { .. } | Grid::Rolling { .. } => false,
        };
        if !sound {
            return Err(InvalidWant::Grid);
        }
        if self.cell_ms >= 1 << 48 || self.epoch_ms >= 1 << 48 {
            return Err(InvalidWant::Cell);
        }
        if self.limit > MAX_LIMIT || self.hits > MAX_LIMIT || self.received > MAX_LIMIT {
            Err(InvalidWant::Limit)
        } else {
            Ok(())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPAN: CellSpan = CellSpan { start_ms: 0, end_ms: 60_000, oldest_ms: 0 };

    fn holding(available: u64, used: u64, now_ms: u64) -> Holding {
        let now = StoreTime::from_millis(now_ms);
        Holding { available, used, used_before: 0, denied: 0, span: SPAN, now }
    }

    #[test]
    fn a_region_that_uses_its_part_evenly_asks_for_nothing() {
        for used in 0..=10 {
            assert_eq!(wanted(&holding(10 - used, used, 6000 * used)), 0, "{used} of 10");
        }
    }

    #[test]
    fn a_region_that_uses_more_asks_before_its_rights_are_spent() {
        // 27 hits in the cell, but only 10 rights.
        let first = (0..10).find(|used| wanted(&holding(10 - used, *used, 60_000 * used / 27)) > 0);
        assert_eq!(first, Some(7));
        assert_eq!(wanted(&holding(3, 7, 15_500)), 13);
    }

    #[test]
    fn a_region_that_used_more_in_the_cell_before_asks_when_the_cell_begins() {
        assert_eq!(wanted(&Holding { used_before: 27, ..holding(9, 1, 1000) }), 17);
        assert_eq!(wanted(&Holding { used_before: 7, ..holding(9, 1, 1000) }), 0);
        // After 10 hits in the first second, 124 more are likely.
        assert_eq!(wanted(&Holding { used_before: 20, ..holding(10, 10, 1000) }), 0, "it has as much as it used");
        assert_eq!(wanted(&Holding { used_before: 20, ..holding(9, 10, 1000) }), 115);
    }

    #[test]
    fn a_denial_asks_for_what_was_denied_at_least() {
        assert_eq!(wanted(&Holding { denied: 5, ..holding(0, 0, 59_000) }), 5);
        assert_eq!(wanted(&Holding { denied: 1, ..holding(0, 40, 30_000) }), 35);
    }

    /// Why a want of a sound node is rejected after a change. `None` if it is not.
    fn rejected(change: impl FnOnce(&mut Want)) -> Option<InvalidWant> {
        let mut want = Want {
            key: b"k".as_slice().into(),
            grid: Grid::Fixed { width_ms: 1000 },
            limit: 10,
            cell_ms: 5000,
            hits: 1,
            denied: false,
            received: 0,
            epoch_ms: 0,
        };
        change(&mut want);
        want.give(RegionNumber(7), Escrow::default()).err()
    }

    #[test]
    fn what_no_sound_node_sends_is_rejected() {
        let with = |change: &dyn Fn(&mut Want)| rejected(change).unwrap();
        assert_eq!(rejected(|_| {}), None);
        assert_eq!(with(&|w| w.key = Box::default()), InvalidWant::Key);
        assert_eq!(with(&|w| w.key = b":lane".as_slice().into()), InvalidWant::Key);
        assert_eq!(with(&|w| w.grid = Grid::Sliding { width_ms: 1000 }), InvalidWant::Grid);
        assert_eq!(with(&|w| w.grid = Grid::Fixed { width_ms: 0 }), InvalidWant::Grid);
        assert_eq!(with(&|w| w.grid = Grid::Calendar { bounds: [4, 3, 2, 1] }), InvalidWant::Grid);
        assert_eq!(with(&|w| w.grid = Grid::Calendar { bounds: [0, 1, 2, 1 << 47] }), InvalidWant::Grid);
        assert_eq!(with(&|w| w.cell_ms = u64::MAX), InvalidWant::Cell);
        assert_eq!(with(&|w| w.hits = u64::MAX), InvalidWant::Limit);
    }

    #[test]
    fn the_largest_want_of_a_sound_node_is_taken_and_a_larger_one_is_rejected() {
        let key = |bytes| rejected(|w| w.key = vec![b'k'; bytes].into());
        assert_eq!([4096, 4097].map(key), [None, Some(InvalidWant::Key)]);
        let width = |width_ms| rejected(|w| w.grid = Grid::Fixed { width_ms });
        assert_eq!([MAX_WINDOW_MS, MAX_WINDOW_MS + 1].map(width), [None, Some(InvalidWant::Grid)]);
        let calendar =
            |first, last| rejected(|w| w.grid = Grid::Calendar { bounds: [first, first + 1, last - 1, last] });
        let (now, longest, end) = (1_764_000_000_000, 4 * MAX_WINDOW_MS, 1 << 48);
        assert_eq!([longest, longest + 1].map(|ms| calendar(now, now + ms)), [None, Some(InvalidWant::Grid)]);
        assert_eq!([end - 1, end].map(|last| calendar(last - 1000, last)), [None, Some(InvalidWant::Grid)]);
        for (ms, expected) in [(end - 1, None), (end, Some(InvalidWant::Cell))] {
            assert_eq!(rejected(|w| w.cell_ms = ms), expected);
            assert_eq!(rejected(|w| w.epoch_ms = ms), expected);
        }
        for (count, expected) in [(MAX_LIMIT, None), (MAX_LIMIT + 1, Some(InvalidWant::Limit))] {
            assert_eq!(rejected(|w| w.limit = count), expected);
            assert_eq!(rejected(|w| w.hits = count), expected);
            assert_eq!(rejected(|w| w.received = count), expected);
        }
    }
}
