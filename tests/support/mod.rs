//! What tests of several binaries share.

#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod load;
pub mod node;
pub mod servers;
pub mod wait;
