//! Tidegate, a multi-region distributed rate limiter. See `ARCHITECTURE.md` for the map.

pub mod actors;
pub mod api;
pub mod cli;
pub mod config;
pub mod limiter;
pub mod node;
pub mod ports;
pub mod store;
pub mod telemetry;
