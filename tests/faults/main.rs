//! Faults, one after another, under load, on real servers and real nodes: what clients saw is held against the promises and
//! printed as a table.
//!
//! `scripts/test --test faults -- --nocapture` shows the tables.

mod bounds;
mod cluster;
mod crowd;
mod drill;
#[path = "../load/mod.rs"]
mod load;
mod many_cores;
mod network;
#[path = "../node/mod.rs"]
mod node;
mod nodes;
mod planned_failover;
mod proxy;
mod region;
mod sentinels;
#[path = "../servers/mod.rs"]
mod servers;
mod single;
mod soak;
mod table;
mod timeline;
mod verdict;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// Drills come one after another: they have the machine to themselves.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}
