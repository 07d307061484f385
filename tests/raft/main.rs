//! The Raft group: its store, its network and its members, with real nodes.

mod certificates;
mod cluster;
mod faults;
mod members;
mod messages;
mod recovery;
mod simulated_disk;
mod simulation;
mod store;
