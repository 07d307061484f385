//! The files of `deploy/regions`, with the programs that read them, Tidegate, Redis, Envoy, HAProxy and gdnsd; and
//! three regions that run with them and have faults.

#[path = "../support/wait.rs"]
mod wait;

mod chaos;
mod configuration;
mod files;
mod geodns;
mod http;
mod namespace;
mod path;
mod promise;
mod three_regions;
mod users;
