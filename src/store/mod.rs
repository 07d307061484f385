//! Counter stores: the memory of the process, and Redis.

pub mod memory;
pub mod redis;
