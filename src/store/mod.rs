//! Counter stores.

pub mod memory;
#[cfg(feature = "redis")]
pub mod redis;
