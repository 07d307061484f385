//! Tests with real gateways in front of a node: Envoy, nginx, Caddy and HAProxy, and Kong's
//! plugin under nginx.

#[path = "../support/mod.rs"]
mod support;

mod browser;
mod client;
mod envoy;
mod envoy_api;
mod envoy_files;
mod failures;
mod forward_auth;
mod gateway;
mod kong;
mod measure;
mod nginx;
mod plugins;
mod setup;
mod transcoding;
