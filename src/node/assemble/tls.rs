//! Builds TLS, and the check of tokens, from the settings that name files.

use std::sync::Arc;

#[cfg(feature = "tls")]
use crate::config::settings::RulesFrom;
use crate::config::settings::Settings;
use crate::ports::{ClientTokens, Clock, Service};
#[cfg(feature = "tls")]
use crate::store::location::StoreLocation;
use crate::telemetry::registry::MetricsRegistry;
use crate::tls::ServerTls;
#[cfg(feature = "tls")]
use crate::tls::peers::PeerSecurity;
#[cfg(feature = "tls")]
use crate::tls::{Certificates, ClientTls, TlsError, metrics::TlsMetrics, settings::ClientFiles};

use super::AssembleError;

/// The TLS of a node's connections. What has no TLS is `None`.
#[derive(Default)]
pub(super) struct NodeTls {
    /// Of the listeners for checks and of the admin API.
    pub(super) front_ends: Option<ServerTls>,
    /// Of the connections to the store.
    #[cfg(feature = "tls")]
    pub(super) store: Option<ClientTls>,
    /// Of the connections between the nodes of the cluster, and to those of other regions.
    #[cfg(feature = "tls")]
    pub(super) peers: Option<PeerSecurity>,
    /// The tokens of the clients that may ask for checks; `None` if clients need none.
    pub(super) tokens: Option<Arc<dyn ClientTokens>>,
    /// Watches the files.
    pub(super) services: Vec<Arc<dyn Service>>,
}

/// Reads the certificates that the settings name.
///
/// # Errors
/// Every file that cannot be used, with its setting.
#[cfg(feature = "tls")]
pub(super) fn node_tls(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    registry: &MetricsRegistry,
) -> Result<NodeTls, AssembleError> {
    let certificates = Certificates::new(Arc::clone(clock), TlsMetrics::new(registry)?);
    let mut errors = Vec::new();
    let mut node = NodeTls::default();
    let mut keep = |error: TlsError| errors.push(error.to_string());
    if let Some(files) = &settings.tls {
        let made = certificates.server("tls", files, &["http", "grpc", "admin"]);
        node.front_ends = made.map_err(&mut keep).ok();
    }
    if let Some(file) = &settings.tokens_file {
        node.tokens = certificates.tokens("auth", file).map_err(&mut keep).ok();
    }
    if let StoreLocation::Redis(redis) = &settings.store.location
        && redis.tls
    {
        let files = ClientFiles { ca: settings.store.ca_file.clone(), ..ClientFiles::default() };
        node.store = certificates.client("store", &files).map_err(&mut keep).ok();
    }
    if let RulesFrom::Cluster(cluster) = &settings.rules {
        node.peers = match &cluster.tls {
            Some(files) => {
                let made = certificates.mutual("cluster.tls", files, &["cluster"]);
                made.map(PeerSecurity::mutual).map_err(&mut keep).ok()
            }
            None => Some(PeerSecurity::Plain),
        };
    } else if !settings.regions.peers.is_empty() {
        node.peers = match &settings.regions.gossip.tls {
            Some(files) => {
                let made = certificates.mutual("gossip.tls", files, &["cluster"]);
                made.map(PeerSecurity::mutual).map_err(&mut keep).ok()
            }
            None => Some(PeerSecurity::Plain),
        };
    }
    if !errors.is_empty() {
        return Err(AssembleError::Settings(errors));
    }
    node.services.push(Arc::new(certificates));
    Ok(node)
}

/// Rejects settings that name certificates or tokens: this build reads none.
#[cfg(not(feature = "tls"))]
pub(super) fn node_tls(settings: &Settings, _: &Arc<dyn Clock>, _: &MetricsRegistry) -> Result<NodeTls, AssembleError> {
    let sections = [("tls", settings.tls.is_some()), ("auth", settings.tokens_file.is_some())];
    let used = sections.into_iter().filter(|(_, is_used)| *is_used);
    let errors: Vec<String> = used
        .map(|(section, _)| format!("{section}: expected nothing: this program was built without the feature tls"))
        .collect();
    if errors.is_empty() { Ok(NodeTls::default()) } else { Err(AssembleError::Settings(errors)) }
}
