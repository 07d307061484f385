//! This machine: its clocks, its randomness, its limits, and the sockets of the node.

pub mod clock;
pub mod listeners;
pub mod machine;
