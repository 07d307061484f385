//! Tests against real PostgreSQL servers: one primary and two streaming replicas.

#[path = "../support/mod.rs"]
mod support;

mod backups;
mod patroni;
mod runbook;
mod servers;
