//! Nodes of a cluster that take their rules from PostgreSQL through Raft: real processes, real servers.

#[path = "../support/mod.rs"]
mod support;

mod edits;
mod failures;
mod keys;
mod members;
mod restores;
mod tls;
