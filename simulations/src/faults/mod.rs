//! The faults of a simulation: what goes wrong, and when.

pub mod draw;
mod kinds;

pub use kinds::{Fault, FaultKind};
