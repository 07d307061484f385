//! The shard of one core: it hosts the keys, decides checks, and says what to send to the store.

mod engine;
mod event;
mod groups;
mod key_table;
mod keys;
mod lanes;
mod pending_check;
mod pending_checks;
mod settle;
mod slab;
mod slot_queue;
mod store_clock;

use std::time::Duration;

pub use engine::{MAX_ITEMS, Shard, ShardConfig, ShardStats};
pub use event::{Effects, Event, News, Outgoing, Overload, Reply, Verdict};

/// How often a shard gets [`Event::Tick`]. No check waits for it.
pub const TICK: Duration = Duration::from_millis(50);
