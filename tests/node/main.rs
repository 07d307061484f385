//! Tests of the program: its commands, and nodes that count in memory.

#[path = "../support/mod.rs"]
mod support;

mod bench;
mod binary;
mod faces_agree;
mod grpc;
mod hostile;
mod http;
mod rules_commands;
mod serve;

use support::node;
