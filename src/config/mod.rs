//! The configuration of `serve`: a file, the environment and flags in one, read with every error at once.

pub mod overlay;
pub mod settings;
