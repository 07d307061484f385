//! The Lua scripts that run in Redis, the wire format of the counter script, and the hash tags of a region.
//!
//! This crate has no Redis client: a node and the simulator run the same scripts, each with its own client.

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

mod hash_tags;
mod script;
pub mod wire;

pub use hash_tags::{SLOTS, Tags, slot};
pub use script::{COUNTERS, FENCE, Script};
