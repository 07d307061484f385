//! Counters in Redis: one server, a primary that Sentinels name, or a cluster.
//!
//! A lane is the counters of one hash tag. All keys of a tag are in one slot, so that a batch is one script call. When
//! a tag moves to another primary, its lane stays. [`RedisRegion`] finds the primaries, once for the process. Each core
//! has a [`RedisStore`] with connections of its own, one to each primary, so that an unresponsive primary delays no
//! other lanes. Replicas are never read.

mod call_error;
mod config_audit;
mod connect_options;
mod connection;
mod connection_pool;
mod counter_store;
mod fence;
mod region;
mod sentinels;
mod server_errors;
mod tls;
mod topology;
mod topology_discovery;

use std::time::Duration;

use super::location::RedisLocation;
use crate::store::metrics::StoreMetrics;
pub use counter_store::RedisStore;
pub use region::RedisRegion;
pub use tls::TlsError;

/// The configuration of a node's place in its region's Redis.
#[derive(Clone)]
pub struct RedisConfig {
    pub redis: RedisLocation,
    /// The certificate authorities that signed the servers' certificates, in PEM; `None`: those that this machine
    /// trusts.
    pub authorities: Option<Vec<u8>>,
    pub region: String,
    /// The name of this node.
    pub node: String,
    /// A random number that identifies this process.
    pub boot: u64,
    /// The cores of this process. Each may hold tokens.
    pub cores: u32,
    /// The prefix of every key.
    pub key_prefix: String,
    /// The number of hash tags; the same on all nodes of the region.
    pub tags: u16,
    /// The longest duration of a batch.
    pub deadline: Duration,
    pub metrics: StoreMetrics,
}
