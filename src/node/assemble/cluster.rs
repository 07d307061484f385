//! Builds the configuration plane of a node that is in a cluster.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use plane::KeyHash;

use super::database::database_config;
use super::tls::NodeTls;
use super::{AssembleError, Configuration};
use crate::api::admin::listener::AdminListener;
use crate::api::admin::metrics::AdminMetrics;
use crate::api::admin::{AdminState, MAX_BACKUP};
use crate::config::plane::{Cluster, Postgres};
use crate::config::settings::{RulesFrom, Settings};
use crate::control::admin::{AdminService, Source};
use crate::control::books::ClusterRules;
use crate::control::follow::FollowDatabase;
use crate::control::metrics::PlaneMetrics;
use crate::db::{Database, DatabaseMetrics};
use crate::host::clock;
use crate::identities::metrics::IdentityMetrics;
use crate::identities::{ApiKeys, IdentityConfig};
use crate::node::NodeConfig;
use crate::node::metrics::NodeMetrics;
use crate::peers::Network;
use crate::ports::plane::{ChangeSource, ConfigStore, Consensus, KeyDirectory};
use crate::ports::{Clock, Region, RuleSource, Service};
use crate::raft::metrics::RaftMetrics;
use crate::raft::{EncryptionKeys, RaftConfig, RaftError, RaftNode, Timings};
use crate::regions::metrics::RegionsMetrics;
use crate::regions::{Peers, RegionGossip, RegionsConfig};
use crate::rulefile::decode::limit_from_json;
use crate::rulefile::encode::limit_json;
use crate::server::balance::{ListenerBounds, acceptors};
use crate::server::peers::PeerBound;
use crate::telemetry::registry::MetricsRegistry;
use crate::tls::peers::PeerSecurity;
use crate::tls::{HTTP1, HTTP2};

/// The most open connections of operators.
const MAX_ADMIN_CONNECTIONS: usize = 256;
/// The budgets of the admin listener, in bytes. One connection may take half of them: a whole backup twice.
const ADMIN_BUDGET: usize = 4 * MAX_BACKUP;
/// The longest time that a node's checks of the primary are further apart than another's, in milliseconds.
const CHECKS_SPREAD_OVER_MS: u64 = 10_000;
/// The shortest token in `admin.token_file`.
const MIN_TOKEN: usize = 16;

/// Builds the parts that carry rules and identities from the cluster to the cores.
pub(super) fn configuration(
    settings: &Settings,
    cluster: &Cluster,
    min_holders: u32,
    clock: &Arc<dyn Clock>,
    registry: &MetricsRegistry,
    tls: &NodeTls,
) -> Result<Configuration, AssembleError> {
    let raft = raft(settings, cluster, registry, tls)?;
    let consensus = Arc::clone(&raft) as Arc<dyn Consensus>;
    let metrics = PlaneMetrics::new(registry)?;
    let rules = Arc::new(ClusterRules::new(Arc::clone(&consensus), min_holders, metrics.clone()));
    let mut services = vec![Arc::clone(&raft) as Arc<dyn Service>, Arc::clone(&rules) as Arc<dyn Service>];
    let database =
        settings.postgres.as_ref().map(|postgres| database(postgres, &settings.node, registry)).transpose()?;
    let mut configuration = Configuration::new(rules as Arc<dyn RuleSource>);
    match &database {
        Some(database) => {
            let source = Arc::clone(database) as Arc<dyn ChangeSource>;
            services.push(Arc::clone(database) as Arc<dyn Service>);
            services.push(Arc::new(FollowDatabase::new(Arc::clone(&consensus), source, metrics)));
            let keys = api_keys(settings, clock, &*consensus, Arc::clone(database), registry)?;
            services.push(Arc::clone(&keys) as Arc<dyn Service>);
            configuration.identities = keys;
        }
        None => tracing::warn!(
            "the settings have no section postgres: this node cannot look API keys up, and as a leader it brings no \
             changes to the cluster"
        ),
    }
    let store = database.map(|database| database as Arc<dyn ConfigStore>);
    configuration.admin = Some(Source::Cluster { consensus, store });
    configuration.raft = Some(raft);
    configuration.services = services;
    Ok(configuration)
}

/// PostgreSQL, as the settings name it.
pub(super) fn database(
    postgres: &Postgres,
    node: &str,
    registry: &MetricsRegistry,
) -> Result<Arc<Database>, AssembleError> {
    let metrics = DatabaseMetrics::new(registry)?;
    let mut config = database_config(postgres);
    // The nodes of a cluster check at different times, so that a server is not asked by all of them at once.
    let mut hasher = DefaultHasher::new();
    node.hash(&mut hasher);
    config.deadlines.check_primary += Duration::from_millis(hasher.finish() % CHECKS_SPREAD_OVER_MS);
    if config.sends_in_clear() {
        tracing::warn!(
            "postgres.tls is not set, and a host of PostgreSQL is not this machine: nothing verifies the server, and \
             data may travel in clear; set postgres.tls.ca_file"
        );
    }
    Ok(Arc::new(Database::new(config, metrics, limit_from_json, limit_json)))
}

fn api_keys(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    consensus: &dyn Consensus,
    database: Arc<Database>,
    registry: &MetricsRegistry,
) -> Result<Arc<ApiKeys>, AssembleError> {
    let identity = &settings.identity;
    let config = IdentityConfig {
        cache: identity.cache,
        ttl: Duration::from_millis(identity.ttl_ms),
        lookups: identity.lookups,
        stale: Duration::from_millis(identity.stale_ms),
    };
    let metrics = IdentityMetrics::new(registry)?;
    let directory = database as Arc<dyn KeyDirectory>;
    Ok(Arc::new(ApiKeys::new(config, Arc::clone(clock), consensus.state(), directory, metrics)))
}

/// Builds the talk with other regions: those of the cluster's members, or those of `peers`. Without any, the node sends
/// nothing.
pub(super) fn regions(
    settings: &Settings,
    node: &NodeConfig,
    clock: &Arc<dyn Clock>,
    region: &dyn Region,
    configuration: &mut Configuration,
    tls: &NodeTls,
    registry: &MetricsRegistry,
) -> Result<(), AssembleError> {
    let raft = configuration.raft.clone();
    let (peers, cluster) = match (&raft, &settings.rules) {
        (Some(raft), RulesFrom::Cluster(cluster)) => {
            let raft = Arc::clone(raft);
            let members = move || {
                let members = raft.status().members.into_iter();
                members.map(|member| (member.region, member.address)).collect()
            };
            (Peers::Cluster(Arc::new(members)), cluster.name.clone())
        }
        _ if settings.regions.peers.is_empty() => return Ok(()),
        _ => (Peers::Fixed(settings.regions.peers.clone()), String::new()),
    };
    let gossip = &settings.regions.gossip;
    let config = RegionsConfig {
        cluster,
        region: settings.region.clone(),
        node: settings.node.clone(),
        weights: settings.regions.weights.clone(),
        listen: raft.is_none().then_some(settings.listen.cluster),
        interval: Duration::from_millis(gossip.interval_ms),
        floor_thousandths: gossip.floor_thousandths,
        partition_after: Duration::from_millis(gossip.partition_after_ms),
        max_keys: node.max_keys,
        hashed_keys: settings.store.hash_keys,
    };
    let mut seeds = [0; 4];
    for seed in &mut seeds {
        *seed = clock::random()?;
    }
    let transport = Arc::new(Network(tls.peers.clone().unwrap_or(PeerSecurity::Plain)));
    let metrics = RegionsMetrics::new(registry)?;
    let stores = [region.store(), region.store()];
    let gossip = RegionGossip::new(config, peers, Arc::clone(clock), stores, transport, metrics, seeds);
    if let Some(raft) = raft {
        raft.serve_also(gossip.routes());
    }
    configuration.services.push(Arc::clone(&gossip) as Arc<dyn Service>);
    configuration.gossip = Some(gossip);
    Ok(())
}

/// Listens for the admin API.
pub(super) fn admin(
    settings: &Settings,
    clock: &Arc<dyn Clock>,
    configuration: &mut Configuration,
    tls: &NodeTls,
    registry: &MetricsRegistry,
    node: &NodeMetrics,
) -> Result<(), AssembleError> {
    let owner = settings.admin_token_file.as_deref().map(owner).transpose()?;
    let source = match (configuration.admin.take(), &settings.rules) {
        (Some(source), _) => source,
        (None, RulesFrom::File(file)) if owner.is_some() => Source::File(file.clone()),
        (None, _) => return Ok(()),
    };
    let service = AdminService {
        rules: Arc::clone(&configuration.rules),
        source,
        gossip: configuration.gossip.clone(),
        owner,
        clock: Arc::clone(clock),
        random: clock::random,
    };
    let state = AdminState::new(Arc::new(service), Arc::clone(clock), AdminMetrics::new(registry)?);
    let state = state.map_err(|error| AssembleError::Io(std::io::Error::other(error)))?;
    let address = settings.listen.admin;
    let failed = |error: std::io::Error| {
        AssembleError::Io(std::io::Error::new(error.kind(), format!("listen.admin: {address}: {error}")))
    };
    let listener = std::net::TcpListener::bind(address).map_err(failed)?;
    listener.set_nonblocking(true).map_err(failed)?;
    let admin = listener.local_addr().map_err(failed)?;
    tracing::info!(%admin, "serving the admin API");
    let tls = tls.front_ends.as_ref().map(|tls| tls.speaking(&[HTTP2, HTTP1]));
    let connections = node.connections.listener("admin");
    let peers = PeerBound { most: MAX_ADMIN_CONNECTIONS / 4, trusted: Vec::new() };
    let bounds = ListenerBounds { max_open: MAX_ADMIN_CONNECTIONS, peers, budget: ADMIN_BUDGET };
    for acceptor in acceptors(1, bounds, connections, Arc::clone(&node.checks), tls) {
        let service = AdminListener::new(state.clone(), listener.try_clone().map_err(failed)?, acceptor);
        configuration.services.push(Arc::new(service));
    }
    Ok(())
}

/// What is wrong with the files of `admin`, `cluster` and `postgres`, apart from TLS between nodes.
pub(super) fn unusable_files(settings: &Settings) -> Vec<String> {
    let mut found = vec![settings.admin_token_file.as_deref().and_then(|file| owner(file).err())];
    if let RulesFrom::Cluster(cluster) = &settings.rules {
        found.push(cluster.encryption_key_file.as_deref().and_then(|file| encryption_keys(file).err()));
    }
    let postgres =
        settings.postgres.as_ref().map(|of| [("password_file", &of.password_file), ("tls.ca_file", &of.ca_file)]);
    let unreadable = postgres.into_iter().flatten().filter_map(|(field, file)| {
        let file = file.as_ref()?;
        let error = std::fs::read(file).err()?;
        Some(format!("postgres.{field}: {}: {error}", file.display()))
    });
    found.into_iter().flatten().map(|error| error.to_string()).chain(unreadable).collect()
}

/// The hash of the token in a file.
fn owner(file: &Path) -> Result<KeyHash, AssembleError> {
    let invalid = |error: &str| AssembleError::Settings(vec![format!("admin.token_file: {}: {error}", file.display())]);
    let text = std::fs::read_to_string(file).map_err(|error| invalid(&error.to_string()))?;
    let token = text.trim();
    if token.len() < MIN_TOKEN {
        return Err(invalid(&format!("expected a token of at least {MIN_TOKEN} characters")));
    }
    Ok(KeyHash::of(token))
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
