//! Tests against real Redis servers: the counter script, the store adapter, and several nodes with common counters.

#[path = "../support/mod.rs"]
mod support;

mod batches;
mod contract;
mod counter_store;
mod deadlines;
mod differential;
mod foreign_records;
mod forgetting;
mod hashed_keys;
mod membership;
mod operate;
mod region;
mod replicas;
mod rights;
mod streams;
mod waiting_memory;

use support::{load, node, servers};
