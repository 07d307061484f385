//! Loads the settings of `serve` from a file, the environment and flags, and reports all errors together.

pub mod defaults;
pub mod listen;
pub mod overlay;
pub mod plane;
pub mod regions;
pub mod settings;
pub mod tls;
mod values;
