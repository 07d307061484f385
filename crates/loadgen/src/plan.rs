//! The settings of a run.

use std::net::SocketAddr;
use std::time::Duration;

use crate::call::Call;
use crate::check_template::CheckTemplate;
use crate::key_distribution::KeyDistribution;

/// The settings of a run: the target, the checks and the load.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    pub target: SocketAddr,
    /// The `:authority` or `Host` of requests.
    pub authority: String,
    pub call: Call,
    pub check: CheckTemplate,
    pub connections: u32,
    /// The maximum number of calls in flight on one connection; on a stream, of messages in flight.
    pub in_flight: u32,
    /// The threads of the tool itself. Each drives its share of the connections.
    pub threads: u32,
    /// Calls per second in an open loop; `None` for a closed loop.
    pub rate: Option<f64>,
    pub length: RunLength,
    /// The time at the beginning that is not measured. The tool sends load in it all the same.
    pub warm_up: Duration,
    /// How long to wait for a connection, and at the end of the run for the calls in flight.
    pub timeout: Duration,
    pub keys: KeyDistribution,
    pub seed: u64,
}

/// When a run ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RunLength {
    /// The run ends this long after the warm-up.
    Time(Duration),
    /// The run ends after this many calls.
    Calls(u64),
}
