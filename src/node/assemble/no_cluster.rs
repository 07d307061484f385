//! A build without the feature `cluster`.

use std::sync::Arc;

use super::tls::NodeTls;
use super::{AssembleError, Configuration};
use crate::config::plane::Cluster;
use crate::config::settings::Settings;
use crate::node::metrics::NodeMetrics;
use crate::ports::Clock;
use crate::telemetry::registry::MetricsRegistry;

pub(super) fn configuration(
    _: &Settings,
    _: &Cluster,
    _: u32,
    _: &Arc<dyn Clock>,
    _: &MetricsRegistry,
    _: &NodeTls,
) -> Result<Configuration, AssembleError> {
    let error = "cluster: expected nothing: this program was built without the feature cluster";
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
