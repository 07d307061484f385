//! Faults, one after another, under load, on real servers and real nodes: what clients saw is held against the promises and
//! printed as a table.
//!
//! `scripts/test --test faults -- --nocapture` shows the tables.

#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod cluster;
mod crowd;
mod drill;
mod many_cores;
mod network;
mod nodes;
mod planned_failover;
mod proxy;
mod region;
mod sentinels;
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

use support::{load, node, servers};
