//! Counter stores.

pub mod memory;
