//! Metrics from one closed list, and logs.

pub mod connections;
pub mod logs;
pub mod metrics;
pub mod names;
pub mod tally;
