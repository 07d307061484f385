//! Tidegate, a multi-region distributed rate limiter. See `ARCHITECTURE.md` for the map.

pub mod actors;
pub mod config;
pub mod limiter;
pub mod ports;
pub mod store;
