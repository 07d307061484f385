//! The simulator: the project's own code on virtual time, one seed deciding everything.

pub mod redis;
mod structs;
