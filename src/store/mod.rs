//! Counter stores: the memory of the process, and Redis.

pub mod location;
pub mod memory;
pub mod metrics;
#[cfg(feature = "redis")]
pub mod redis;
