//! The grid of a window counter: cells aligned to the epoch or to a calendar.
//!
//! `fixed_window` has one cell. `sliding_window` has two, and the older is weighted. `rolling_window` has n + 1
//! unweighted cells, which bounds every interval. Widths are rounded **up**, so no hit is forgotten too early.

use serde::{Deserialize, Serialize};

use super::hit_log::MAX_LOGGED_LIMIT;
use crate::time::StoreTime;

/// The largest `limit` and `burst`: its sums and weights stay exact in the doubles of a Redis script.
pub const MAX_LIMIT: u64 = 1 << 36;
/// A weight of 1. The weight of the older cell is a multiple of its inverse, rounded up.
pub const WEIGHT_ONE: u64 = 1 << 16;

/// The beginnings of four calendar cells in milliseconds: the one before the current, the current, and the two after
/// it.
///
/// A node sends them with an item, and the store picks the cell of its own `now`. Three cells cover the error of a
/// node's estimate of the store's clock.
pub type CalendarBounds = [u64; 4];

/// The cells of a window counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grid {
    Fixed {
        width_ms: u64,
    },
    Sliding {
        width_ms: u64,
    },
    /// `cells` older cells beside the current. A cell is `window_ms` ÷ `cells` wide, rounded up.
    Rolling {
        window_ms: u64,
        cells: u32,
    },
    Calendar {
        bounds: CalendarBounds,
    },
}

/// The current cell at an instant, and the oldest cell that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CellSpan {
    pub start_ms: u64,
    pub end_ms: u64,
    /// The beginning of the oldest cell that still counts.
    pub oldest_ms: u64,
}

impl Grid {
    /// The cell of `now`; `None` if `now` is outside the calendar bounds that the item carries.
    pub fn span_at(&self, now: StoreTime) -> Option<CellSpan> {
        let ms = now.millis();
        let (width_ms, older) = match *self {
            Self::Fixed { width_ms } => (width_ms, 0),
            Self::Sliding { width_ms } => (width_ms, 1),
            Self::Rolling { window_ms, cells } => (rolling_width_ms(window_ms, cells), u64::from(cells)),
            Self::Calendar { bounds } => {
                let at = (0..3).find(|i| bounds[*i] <= ms && ms < bounds[*i + 1])?;
                return Some(CellSpan { start_ms: bounds[at], end_ms: bounds[at + 1], oldest_ms: bounds[at] });
            }
        };
        let start_ms = ms - ms % width_ms;
        Some(CellSpan {
            start_ms,
            end_ms: start_ms.saturating_add(width_ms),
            oldest_ms: start_ms.saturating_sub(width_ms.saturating_mul(older)),
        })
    }

    /// The end of the cell that begins at `start_ms`, if it is not one of a calendar.
    pub fn end_ms(&self, start_ms: u64) -> u64 {
        match *self {
            Self::Fixed { width_ms } | Self::Sliding { width_ms } => start_ms.saturating_add(width_ms),
            Self::Rolling { window_ms, cells } => start_ms.saturating_add(rolling_width_ms(window_ms, cells)),
            Self::Calendar { .. } => start_ms,
        }
    }

    /// The instant from which a cell does not count any more. `end_ms` is the end of its window, which only a fixed
    /// window and a calendar need.
    pub fn gone_at(&self, start_ms: u64, end_ms: u64) -> StoreTime {
        StoreTime::from_millis(match *self {
            Self::Fixed { .. } | Self::Calendar { .. } => end_ms,
            Self::Sliding { width_ms } => start_ms.saturating_add(2 * width_ms),
            Self::Rolling { window_ms, cells } => {
                start_ms.saturating_add((u64::from(cells) + 1) * rolling_width_ms(window_ms, cells))
            }
        })
    }

    /// The length of a window that older cells belong to, in milliseconds; `None` if only the current cell counts.
    pub const fn sliding_ms(&self) -> Option<u64> {
        match *self {
            Self::Fixed { .. } | Self::Calendar { .. } => None,
            Self::Sliding { width_ms: window_ms } | Self::Rolling { window_ms, .. } => Some(window_ms),
        }
    }

    /// True if the hits of this limit are logged: cells alone are too coarse for a small limit.
    pub const fn is_logged(&self, limit: u64) -> bool {
        limit <= MAX_LOGGED_LIMIT && self.sliding_ms().is_some()
    }
}

/// The width of a cell of a rolling window.
fn rolling_width_ms(window_ms: u64, cells: u32) -> u64 {
    window_ms.div_ceil(u64::from(cells.max(1)))
}
