//! The files of `deploy/regions`, with the programs that read them, Tidegate, Redis, Envoy, HAProxy and gdnsd; and three
//! regions that run with them.

#[path = "../support/wait.rs"]
mod wait;

mod configuration;
mod files;
mod geodns;
mod namespace;
mod path;
