//! Counters: how a store counts hits, and what a node and its store send each other.

mod apply;
mod batch;
mod batch_context;
mod cell;
mod debts;
mod escrow;
mod grants;
mod grid;
mod hit_log;
mod lane_epoch;
mod notes;
mod rate;
mod replay_guard;
mod seen_cells;
mod share;
mod token_bucket;
mod transfer;
mod usage;
mod window_record;

pub use apply::{Record, apply, expires_at, run};
pub use batch::{
    Ask, Batch, BatchOutcome, BatchReply, BucketReturn, BucketSeen, Counter, Debts, Grant, Granted, Item, ItemReply,
    Prefetch, Seen, StoreError, WindowReturn,
};
pub use batch_context::{BatchContext, REPLICATION_MARKS};
pub(crate) use cell::cell_mut;
pub use cell::{
    Cell, Entry, FIRST_NOTE, FLOOR, MAX_COUNT, MAX_ENTRIES, MAX_FOREIGN_ENTRIES, MAX_NOTES, MAX_REGIONS, used, used_by,
};
pub use debts::{Debt, Hits, MAX_DEBTS, Report};
pub use escrow::{Escrow, FORECAST_PARTS, MAX_FORECAST, OtherRegions, forecast, spare};
pub use grid::{CalendarBounds, CellSpan, Grid, MAX_LIMIT, WEIGHT_ONE};
pub use hit_log::{HitLog, LoggedHits, MAX_LOG, MAX_LOGGED_HITS, MAX_LOGGED_LIMIT};
pub use lane_epoch::{KEPT_AFTER_CELL_MS, LANE_TIME_STEP_MS, LaneEpoch, Spending};
pub use notes::{NOTE_CONFIRMED, NOTE_FENCED, NOTE_RIGHTS, Note};
pub use rate::{Rate, TICKS_PER_MICRO, Ticks};
pub use replay_guard::MAX_HOLDERS;
pub use seen_cells::SeenCells;
pub use share::{NOTICE_TOLERANCE_MS, Noticed, Part, Share};
pub use token_bucket::{Bucket, MAX_OVERDRAFT_HITS, MAX_OVERDRAFT_US};
pub use transfer::{Give, Given, MAX_TRANSFER_CELLS, Take};
pub use usage::Usage;
pub use window_record::{Received, WindowRecord};
