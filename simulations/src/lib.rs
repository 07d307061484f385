//! A simulator of the project's own code on virtual time: real shards, the flusher's part and the real counter script.
//!
//! A seed decides a [`scenario::Plan`]. [`run`] runs the plan in a world, and the [`oracle`] judges what the clients
//! saw. One seed has exactly one history, byte for byte.
//!
//! The folders, from the bottom up: `scenario` and `faults` (what a seed decides), `store` (a Redis server), `context`
//! (clock, event queue, history), `links` (between regions), `region` (cores and
//! primaries), `world` (regions and clients), `oracle`, and `plot`
//! (pictures).

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

pub mod bug_injector;
pub mod campaign;
mod context;
pub mod faults;
pub mod history;
pub mod ids;
mod links;
pub mod oracle;
pub mod plot;
mod region;
mod rng;
pub mod run;
pub mod scenario;
pub mod store;
mod world;
