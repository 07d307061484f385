//! Builds the configuration plane of a node that is in a cluster.

use std::sync::Arc;

use super::tls::NodeTls;
use super::{AssembleError, Configuration};
use crate::config::plane::Cluster;
use crate::config::settings::Settings;
use crate::ports::Clock;
use crate::telemetry::registry::MetricsRegistry;

/// Builds the parts that carry rules and identities from the cluster to the cores.
pub(super) fn configuration(
    _settings: &Settings,
    _cluster: &Cluster,
    _min_holders: u32,
    _clock: &Arc<dyn Clock>,
    _registry: &MetricsRegistry,
    _tls: &NodeTls,
) -> Result<Configuration, AssembleError> {
    Err(AssembleError::Store(vec!["cluster: expected nothing: this section is not built yet".to_owned()]))
}
