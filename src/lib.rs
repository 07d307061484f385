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
#[cfg(feature = "cluster")]
pub mod control;
#[cfg(feature = "cluster")]
pub mod db;
pub mod host;
#[cfg(feature = "cluster")]
pub mod identities;
pub mod node;
#[cfg(feature = "cluster")]
pub mod peers;
pub mod ports;
#[cfg(feature = "cluster")]
pub mod raft;
#[cfg(feature = "cluster")]
pub mod regions;
pub mod rulefile;
pub mod server;
pub mod store;
pub mod telemetry;
pub mod tls;
pub mod yaml;
