//! A build without the feature `cluster`.

use std::sync::Arc;

use super::tls::NodeTls;
use super::{AssembleError, Configuration};
use crate::config::plane::Cluster;
use crate::config::settings::{RulesFrom, Settings};
use crate::node::NodeConfig;
use crate::node::metrics::NodeMetrics;
use crate::ports::{Clock, Region};
use crate::telemetry::registry::MetricsRegistry;

const NO_CLUSTER: &str = "cluster: expected nothing: this program was built without the feature cluster";

pub(super) fn configuration(
    _: &Settings,
    _: &Cluster,
    _: u32,
    _: &Arc<dyn Clock>,
    _: &MetricsRegistry,
    _: &NodeTls,
) -> Result<Configuration, AssembleError> {
    Err(AssembleError::Settings(vec![NO_CLUSTER.to_owned()]))
}

/// There are no files of the configuration plane, which this build cannot use.
pub(super) fn unusable_files(settings: &Settings) -> Vec<String> {
    match &settings.rules {
        RulesFrom::Cluster(_) => vec![NO_CLUSTER.to_owned()],
        RulesFrom::File(_) => Vec::new(),
    }
}

/// There is no talk with other regions.
pub(super) fn regions(
    settings: &Settings,
    _: &NodeConfig,
    _: &Arc<dyn Clock>,
    _: &dyn Region,
    _: &mut Configuration,
    _: &NodeTls,
    _: &MetricsRegistry,
) -> Result<(), AssembleError> {
    if settings.regions.peers.is_empty() {
        return Ok(());
    }
    let error = "peers: expected nothing: this program was built without the feature cluster";
    Err(AssembleError::Settings(vec![error.to_owned()]))
}

/// There is no admin API.
pub(super) fn admin(
    _: &Settings,
    _: &Arc<dyn Clock>,
    _: &mut Configuration,
    _: &NodeTls,
    _: &MetricsRegistry,
    _: &NodeMetrics,
) -> Result<(), AssembleError> {
    Ok(())
}
