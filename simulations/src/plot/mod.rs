//! Pictures of a simulation: how full the busiest counters were over time, and when faults were active.

mod busiest;
mod svg;
mod text;
mod usage_levels;

pub use busiest::{BusyCounter, busiest, highest};
pub use svg::svg;
pub use text::text;
pub use usage_levels::Level;
