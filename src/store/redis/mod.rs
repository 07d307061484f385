//! Counters in Redis: one server, a primary that Sentinels name, or a cluster.
//!
//! A lane is the counters of one hash tag. All keys of a tag are in one slot, so that a batch is one script call. When
//! a tag moves to another primary, its lane stays. [`RedisRegion`] finds the primaries, once for the process. Each core
//! has a [`RedisStore`] with connections of its own, one to each primary, so that an unresponsive primary delays no
//! other lanes. Replicas are never read.

mod call_error;
mod config;
mod config_audit;
mod connect_options;
mod connection;
mod connection_pool;
mod counter_store;
mod fence;
mod region;
mod sentinels;
mod server_errors;
mod topology;
mod topology_discovery;

pub use config::RedisConfig;
pub use counter_store::RedisStore;
pub use region::RedisRegion;
