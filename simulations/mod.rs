//! What a simulator of the project's own code needs. So far: a server that runs the counter script, whose clock, memory and
//! failovers are in the caller's hands.

pub mod redis;
mod structs;
