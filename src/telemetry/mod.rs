//! Metrics from one closed list, and logs.

pub mod checks;
pub mod log_gate;
pub mod logs;
pub mod names;
pub mod registry;
pub mod tally;
