//! The shard of one core: it hosts the keys, decides checks, and sends batches to the store.

mod key_table;
mod lanes;
mod reservation;
mod shard_core;
mod slab;
mod store_clock;
mod turns;

pub use shard_core::{MAX_ITEMS, Outgoing, Shard, ShardConfig, ShardStats, Shed, Verdict};
pub use turns::{Cause, Due, Turns};

/// How often a shard gets [`Cause::Tick`]. No check waits for it.
pub const TICK: std::time::Duration = std::time::Duration::from_millis(50);
