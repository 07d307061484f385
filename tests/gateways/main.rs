//! Tests with real gateways in front of a node: Envoy and nginx.

#[path = "../support/mod.rs"]
mod support;

mod envoy;
mod envoy_api;
mod nginx;
