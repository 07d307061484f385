//! Fault drills on real servers and real nodes under load. Each test injects faults one after another, compares what
//! the clients saw with the promises, and prints a table.
//!
//! `scripts/test --faults --nocapture` shows the tables.

#[path = "../support/mod.rs"]
mod support;

mod bounds;
mod clients;
mod cluster;
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

use support::{load, node, servers};
