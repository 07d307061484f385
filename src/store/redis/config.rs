//! The configuration of the Redis adapter.

use std::time::Duration;

use crate::store::location::RedisLocation;
use crate::store::metrics::StoreMetrics;
use crate::tls::ClientTls;

/// The configuration of a node's place in its region's Redis.
#[derive(Clone)]
pub struct RedisConfig {
    pub redis: RedisLocation,
    /// TLS of the connections; `None`: they are plain.
    pub tls: Option<ClientTls>,
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
    /// True if keys have only a hash of the values of checks; the same on all nodes of the region.
    pub hash_keys: bool,
    /// The longest duration of a batch.
    pub deadline: Duration,
    pub metrics: StoreMetrics,
}
