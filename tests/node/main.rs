//! Tests of the program: its commands, and nodes with the memory store.

#[path = "../support/mod.rs"]
mod support;

#[cfg(feature = "cluster")]
mod admin_api;
#[cfg(feature = "cluster")]
mod admin_commands;
#[cfg(feature = "cluster")]
mod admin_configuration;
mod attacks_in_vain;
mod batches;
mod bench;
mod binary;
#[cfg(feature = "tls")]
mod callers;
mod check_costs;
#[cfg(feature = "cluster")]
mod commands_over_tls;
mod envoy_call;
mod front_ends_agree;
mod grpc;
mod hostile_clients;
mod http;
mod openapi;
mod ratelimit_fields;
mod resets;
mod response_headers;
mod rules_commands;
mod rules_import;
mod serve;
#[cfg(feature = "cluster")]
mod tls;
mod unfinished_heads;
mod unmatched;
mod unread_answers;
mod victim;
mod web_pages;

use support::node;
