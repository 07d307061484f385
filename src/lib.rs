//! Tidegate, a multi-region distributed rate limiter. See `ARCHITECTURE.md` for the map.

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

pub mod actors;
pub mod api;
pub mod cli;
pub mod config;
pub mod host;
pub mod node;
pub mod ports;
pub mod rulefile;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod yaml;
