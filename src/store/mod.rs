//! Counter stores: the memory of the process, and Redis.

pub mod location;
pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
