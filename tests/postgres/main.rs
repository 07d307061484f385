//! Tests against real PostgreSQL servers: one primary and two streaming replicas.

#[path = "../support/mod.rs"]
mod support;

mod backups;
mod change_log;
mod constraints;
mod contention;
mod edits;
mod failover;
mod keys;
mod migrations;
mod patroni;
mod restores;
mod runbook;
mod servers;
mod single;
mod tls;
