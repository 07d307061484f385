//! Tests with real gateways in front of a node: Envoy and nginx.

mod envoy;
mod nginx;
