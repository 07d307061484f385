//! Builds the configuration plane of a node that is in a cluster.

use std::path::Path;
use std::sync::Arc;

use super::tls::NodeTls;
use super::{AssembleError, Configuration};
use crate::config::plane::Cluster;
use crate::config::settings::Settings;
use crate::control::books::ClusterRules;
use crate::control::metrics::PlaneMetrics;
use crate::host::clock;
use crate::ports::plane::Consensus;
use crate::ports::{Clock, RuleSource, Service};
use crate::raft::metrics::RaftMetrics;
use crate::raft::transport::Network;
use crate::raft::{EncryptionKeys, RaftConfig, RaftError, RaftNode, Timings};
use crate::telemetry::registry::MetricsRegistry;
use crate::tls::peers::PeerSecurity;

/// Builds the parts that carry rules and identities from the cluster to the cores.
pub(super) fn configuration(
    settings: &Settings,
    cluster: &Cluster,
    min_holders: u32,
    _clock: &Arc<dyn Clock>,
    registry: &MetricsRegistry,
    tls: &NodeTls,
) -> Result<Configuration, AssembleError> {
    let raft = raft(settings, cluster, registry, tls)?;
    let consensus = Arc::clone(&raft) as Arc<dyn Consensus>;
    let metrics = PlaneMetrics::new(registry)?;
    let rules = Arc::new(ClusterRules::new(Arc::clone(&consensus), min_holders, metrics.clone()));
    let services = vec![raft as Arc<dyn Service>, Arc::clone(&rules) as Arc<dyn Service>];
    Ok(Configuration { services, ..Configuration::new(rules as Arc<dyn RuleSource>) })
}

fn raft(
    settings: &Settings,
    cluster: &Cluster,
    registry: &MetricsRegistry,
    tls: &NodeTls,
) -> Result<Arc<RaftNode>, AssembleError> {
    let security = tls.peers.clone().unwrap_or(PeerSecurity::Plain);
    let encryption = cluster.encryption_key_file.as_deref().map(encryption_keys).transpose()?;
    let config = RaftConfig {
        cluster: cluster.name.clone(),
        node: settings.node.clone(),
        region: settings.region.clone(),
        listen: settings.listen.cluster,
        advertise: cluster.advertise.clone(),
        data_dir: cluster.data_dir.clone(),
        encryption,
        join: cluster.join.clone(),
        fresh_id: clock::random()?,
        timings: Timings::default(),
    };
    let raft = RaftNode::open(config, Arc::new(Network(security)), RaftMetrics::new(registry)?);
    raft.map_err(|error| match error {
        RaftError::Io { .. } => AssembleError::Io(std::io::Error::other(error)),
        other => AssembleError::Settings(vec![format!("cluster.data_dir: {other}")]),
    })
}

fn encryption_keys(file: &Path) -> Result<EncryptionKeys, AssembleError> {
    let invalid = |error: String| {
        AssembleError::Settings(vec![format!("cluster.encryption_key_file: {}: {error}", file.display())])
    };
    let text = std::fs::read_to_string(file).map_err(|error| invalid(error.to_string()))?;
    EncryptionKeys::parse(&text).map_err(|error| invalid(error.to_string()))
}
