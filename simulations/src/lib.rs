//! A simulator of the project's own code: real shards, the real flusher's part and the real script, on virtual time.
//!
//! A seed decides a [`plan`]; [`run`] lets it happen in a world and has the [`oracle`] judge what clients saw. One seed,
//! one history, byte for byte.

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

mod chaos;
mod checks;
mod clients;
mod dice;
pub mod drawing;
pub mod faults;
mod gauge;
pub mod ledger;
pub mod many;
pub mod meddler;
mod node;
pub mod oracle;
pub mod plan;
pub mod plot;
mod primary;
pub mod redis;
pub mod run;
pub mod scenario;
mod structs;
mod wire;
mod world;
