//! Tests with real gateways in front of a node: Envoy, nginx, Caddy and HAProxy.

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod client;
mod envoy;
mod envoy_api;
mod forward_auth;
mod gateway;
mod nginx;
mod transcoding;
