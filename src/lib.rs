//! Tidegate, a multi-region distributed rate limiter. See `ARCHITECTURE.md` for the map.

pub mod limiter;
