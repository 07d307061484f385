//! Regions that count together: real nodes, a real Redis for each region, and links that are cut.

#[path = "../support/mod.rs"]
mod support;

mod escrow;
mod gossip;
mod hops;
mod scale;
mod staleness;
mod world;
