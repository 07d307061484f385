//! Counter stores.

pub mod memory;
pub mod redis;
