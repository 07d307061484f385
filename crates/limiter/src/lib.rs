//! The decision core of Tidegate. It is pure: time and randomness are arguments, and effects are return values.
//!
//! A [`Check`] goes through three layers:
//!
//! - [`rules`]: the [`rules::RuleBook`] finds the limits that apply to the check.
//! - [`Shard`]: hosts the keys of one core and decides the check from the tokens that they hold.
//! - [`counter`]: a key that lacks tokens asks the region's counter store, in a [`counter::Batch`]. Every store does
//!   with a batch what [`counter::apply`] does.
//!
//! [`Shard::check`] decides in place where it can. [`Shard::handle`] takes every other event and returns what must be
//! done.

#![cfg_attr(
    not(test),
    deny(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::todo,
        clippy::unimplemented,
        clippy::dbg_macro
    )
)]

mod breaker;
mod check;
pub mod counter;
mod decision;
mod dry_run;
pub mod escrow;
pub mod gossip;
mod hash;
mod ids;
pub mod invariant;
mod key;
mod node_clock;
mod revision;
pub mod rules;
mod shard;
mod time;

pub use breaker::{Breaker, PROBE_INTERVAL};
pub use check::{Charging, Check, Descriptor, MAX_ATTRIBUTES};
pub use decision::{Decision, IdentityProblem, LimitStatus, by_part_left, tightest};
pub use dry_run::DryRun;
pub use ids::{BatchId, DebtId, HolderId, Incarnation, LaneId, RegionNumber, SlotId, Ticket};
pub use key::Regions;
pub use node_clock::NodeClock;
pub use revision::Revision;
pub use shard::{
    Effects, Event, MAX_ITEMS, News, Outgoing, Overload, Reply, Shard, ShardConfig, ShardStats, TICK, Verdict,
};
pub use time::{NodeTime, StoreTime, WallTime, millis_up};
