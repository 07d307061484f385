//! The settings of the talk with other regions.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use limiter::escrow::Weight;

/// The settings of the talk with other regions.
#[derive(Clone, Debug)]
pub struct RegionsConfig {
    /// The cluster of this node; empty without one.
    pub cluster: String,
    pub region: String,
    pub node: String,
    /// The weights of regions by name. A region that is not there has 1.
    pub weights: BTreeMap<String, Weight>,
    /// Where this node listens; `None` if its cluster does.
    pub listen: Option<SocketAddr>,
    /// The shortest time between two messages to one region.
    pub interval: Duration,
    /// A key of which the region has used fewer thousandths of its limit is not told.
    pub floor_thousandths: u32,
    /// A region is partitioned if it acknowledges nothing for so long.
    pub partition_after: Duration,
    /// The most keys that are kept to be told.
    pub max_keys: usize,
    /// Names of counters have hashes instead of values. All regions must agree.
    pub hashed_keys: bool,
}
