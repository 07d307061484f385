//! Builds the parts of a node from its settings. This is the only file that names adapters.

#[cfg_attr(not(feature = "cluster"), path = "assemble/no_cluster.rs")]
mod cluster;
#[cfg(feature = "cluster")]
mod database;
mod tls;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "cluster")]
pub use self::database::database_config;
use limiter::rules::RuleBook;
use tokio::sync::watch;

use self::tls::{NodeTls, node_tls};
use super::metrics::{NodeMetrics, SeriesRemover};
use super::{Environment, NodeConfig};
use crate::api::http::forward_auth::trust::Trust;
use crate::config::defaults::DEFAULTS;
use crate::config::settings::{RulesFrom, Settings};
use crate::host::clock::{self, SystemClock};
use crate::host::machine;
use crate::ports::identity::{Identities, NoIdentities};
use crate::ports::{Clock, Gossip, Region, RuleSource, Service};
use crate::rulefile::decode::compile;
use crate::rulefile::metrics::RuleFileMetrics;
use crate::rulefile::watch::{FileRules, InvalidRuleFile};
use crate::store::location::{RedisLocation, StoreLocation};
use crate::store::memory::{MemoryStore, SingleNodeRegion};
use crate::store::metrics::StoreMetrics;
#[cfg(feature = "redis")]
use crate::store::redis::{RedisConfig, RedisRegion};
use crate::telemetry::registry::MetricsRegistry;

/// The most connections on each listener of a node for trying things out. It needs few open files, so that the usual
/// limits of a machine suffice.
const DEV_CONNECTIONS: usize = 1000;

/// A function that makes a source read its rules at once.
pub type Reload = Box<dyn Fn() + Send + Sync>;

/// A node that can be run.
pub struct Assembled {
    pub config: NodeConfig,
    pub environment: Environment,
    /// Reads the rules again at once, if they come from a file.
    pub reload: Option<Reload>,
}

/// Why a node cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    #[error("metrics: {0}")]
    Metrics(#[from] prometheus::Error),
    #[error(transparent)]
    Rules(#[from] InvalidRuleFile),
    /// Errors of settings, each with its field.
    #[error("{}", .0.join("\n"))]
    Settings(Vec<String>),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl AssembleError {
    /// True if the user can correct it.
    pub const fn is_configuration(&self) -> bool {
        matches!(self, Self::Rules(_) | Self::Settings(_))
    }
}

/// The `min_holders` for warnings about rules whose counters are in memory: that store has no outage.
const NEVER_FAILS: u32 = 0;

/// Where a node's rules and identities come from.
struct Configuration {
    rules: Arc<dyn RuleSource>,
    /// In the order of their start.
    services: Vec<Arc<dyn Service>>,
    identities: Arc<dyn Identities>,
    reload: Option<Reload>,
    /// What the admin API reads and changes.
    #[cfg(feature = "cluster")]
    admin: Option<crate::control::admin::Source>,
    /// The node's place in its cluster.
    #[cfg(feature = "cluster")]
    raft: Option<Arc<crate::raft::RaftNode>>,
    /// The talk with other regions.
    gossip: Option<Arc<dyn Gossip>>,
}

impl Configuration {
    fn new(rules: Arc<dyn RuleSource>) -> Self {
        Self {
            rules,
            services: Vec::new(),
            identities: Arc::new(NoIdentities),
            reload: None,
            #[cfg(feature = "cluster")]
            admin: None,
            #[cfg(feature = "cluster")]
            raft: None,
            gossip: None,
        }
    }

    fn of_file(file: Arc<FileRules>) -> Self {
        let services = vec![Arc::clone(&file) as Arc<dyn Service>];
        let rules = Arc::clone(&file) as Arc<dyn RuleSource>;
        Self { services, reload: Some(Box::new(move || file.reload())), ..Self::new(rules) }
    }
}

/// Rules that never change.
struct FixedRules(watch::Sender<Arc<RuleBook>>);

impl RuleSource for FixedRules {
    fn follow(&self) -> watch::Receiver<Arc<RuleBook>> {
        self.0.subscribe()
    }
}

/// Builds a node for trying things out: counters in memory, and the rules of a file, else `sample`.
///
/// # Errors
/// Why it cannot be built.
pub fn dev(rules: Option<&Path>, sample: &str, build: (&str, &str)) -> Result<Assembled, AssembleError> {
    let registry = MetricsRegistry::new(build.0, build.1)?;
    let file_metrics = RuleFileMetrics::new(&registry)?;
    let store_metrics = StoreMetrics::new(&registry)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let (source, file): (Arc<dyn RuleSource>, _) = match rules {
        Some(path) => {
            let file = Arc::new(FileRules::open(path.to_owned(), NEVER_FAILS, file_metrics)?);
            (Arc::clone(&file) as Arc<dyn RuleSource>, Some(file))
        }
        None => {
            let revision = limiter::Revision(1);
            let book = compile("sample.yaml", sample, revision).map_err(InvalidRuleFile::Invalid)?;
            (Arc::new(FixedRules(watch::Sender::new(Arc::new(book)))), None)
        }
    };
    let config = NodeConfig {
        workers: machine::cores(),
        max_keys: machine::keys(true),
        max_pending: DEFAULTS.max_pending,
        max_connections: DEV_CONNECTIONS,
        max_connections_per_peer: DEFAULTS.max_connections_per_peer,
        lease_us: DEFAULTS.lease_ms * 1000,
        deadline_us: DEFAULTS.deadline_ms * 1000,
        min_holders: DEFAULTS.min_holders,
        hash_keys: DEFAULTS.hash_keys,
        drain: Duration::from_secs(1),
        trust: Trust::of_loopback(),
        origins: Arc::default(),
    };
    let region = in_memory(&config, &clock, &store_metrics);
    let metrics = NodeMetrics::new(registry)?;
    let rules = match file {
        Some(file) => Configuration::of_file(file),
        None => Configuration::new(source),
    };
    Ok(assembled(config, clock, region, rules, NodeTls::default(), metrics))
}

/// Builds the node that `settings` describe.
///
/// # Errors
/// Why it cannot be built.
pub fn serve(settings: &Settings, build: (&str, &str)) -> Result<Assembled, AssembleError> {
    let registry = MetricsRegistry::new(build.0, build.1)?;
    let store_metrics = StoreMetrics::new(&registry)?;
    let in_memory_only = settings.store.location == StoreLocation::Memory;
    let min_holders = if in_memory_only { NEVER_FAILS } else { settings.store.min_holders };
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let tls = node_tls(settings, &clock, &registry)?;
    let mut rules = match &settings.rules {
        RulesFrom::File(file) => {
            let metrics = RuleFileMetrics::new(&registry)?;
            Configuration::of_file(Arc::new(FileRules::open(file.clone(), min_holders, metrics)?))
        }
        RulesFrom::Cluster(cluster) => cluster::configuration(settings, cluster, min_holders, &clock, &registry, &tls)?,
    };
    let advice = advice(settings);
    advice.iter().for_each(|advice| tracing::warn!("{advice}"));
    let config = node_config(settings);
    let region: Arc<dyn Region> = match &settings.store.location {
        StoreLocation::Memory => {
            tracing::warn!(
                "counters are in the memory of this process: no other node shares them, and a restart loses them"
            );
            in_memory(&config, &clock, &store_metrics)
        }
        StoreLocation::Redis(redis) => redis_region(settings, redis, &config, store_metrics, &tls)?,
    };
    let metrics = NodeMetrics::new(registry.clone())?;
    cluster::regions(settings, &config, &clock, &*region, &mut rules, &tls, &registry)?;
    cluster::admin(settings, &clock, &mut rules, &tls, &registry, &metrics)?;
    let mut node = assembled(config, clock, region, rules, tls, metrics);
    node.environment.advice = advice;
    Ok(node)
}

/// What weakens the node's promises: everybody who reaches a front end can use up a customer's limit.
fn advice(settings: &Settings) -> Vec<&'static str> {
    let has_known_clients =
        settings.tokens_file.is_some() || settings.tls.as_ref().is_some_and(|files| files.client_ca.is_some());
    let faces = [
        (
            settings.listen.http,
            "listen.http is not on loopback, and its clients need neither a token nor a certificate: everybody who reaches it can use up a limit (auth.tokens_file or tls.client_ca_file)",
        ),
        (
            settings.listen.grpc,
            "listen.grpc is not on loopback, and its clients need neither a token nor a certificate: everybody who reaches it can use up a limit (auth.tokens_file or tls.client_ca_file)",
        ),
    ];
    let is_open = |address: &std::net::SocketAddr| !has_known_clients && !address.ip().is_loopback();
    faces.into_iter().filter(|(address, _)| is_open(address)).map(|(_, advice)| advice).collect()
}

/// Checks what only building a node finds out: files that settings name, all of them.
///
/// # Errors
/// Errors of settings, each with its field and its file.
pub fn check(settings: &Settings, build: (&str, &str)) -> Result<(), AssembleError> {
    let registry = MetricsRegistry::new(build.0, build.1)?;
    let metrics = StoreMetrics::new(&registry)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let mut errors = Vec::new();
    let mut keep = |error: AssembleError| match error {
        AssembleError::Settings(found) => {
            errors.extend(found);
            Ok(())
        }
        other => Err(other),
    };
    let tls = match node_tls(settings, &clock, &registry) {
        Ok(tls) => tls,
        Err(error) => keep(error).map(|()| NodeTls::default())?,
    };
    if let StoreLocation::Redis(redis) = &settings.store.location
        && let Err(error) = redis_region(settings, redis, &node_config(settings), metrics, &tls)
    {
        keep(error)?;
    }
    errors.extend(cluster::unusable_files(settings));
    if errors.is_empty() { Ok(()) } else { Err(AssembleError::Settings(errors)) }
}

fn assembled(
    config: NodeConfig,
    clock: Arc<dyn Clock>,
    region: Arc<dyn Region>,
    configuration: Configuration,
    tls: NodeTls,
    metrics: NodeMetrics,
) -> Assembled {
    let Configuration { rules, services: of_rules, identities, reload, gossip, .. } = configuration;
    let mut services = tls.services;
    services.extend(of_rules);
    let remover = SeriesRemover { rules: Arc::clone(&rules), checks: Arc::clone(&metrics.checks) };
    services.push(Arc::new(remover));
    services.push(Arc::clone(&region) as Arc<dyn Service>);
    let (random, metrics) = (clock::random, Arc::new(metrics));
    let NodeTls { front_ends: tls, tokens, .. } = tls;
    let environment = Environment {
        clock,
        random,
        region,
        gossip,
        rules,
        identities,
        metrics,
        tls,
        tokens,
        advice: Vec::new(),
        services,
    };
    Assembled { config, environment, reload }
}

fn in_memory(config: &NodeConfig, clock: &Arc<dyn Clock>, metrics: &StoreMetrics) -> Arc<dyn Region> {
    let store = MemoryStore::new(Arc::clone(clock), config.max_keys).counting_evictions(metrics.evicted.clone());
    Arc::new(SingleNodeRegion::new(Arc::new(store), config.cores()))
}

#[cfg(not(feature = "redis"))]
fn redis_region(
    _: &Settings,
    _: &RedisLocation,
    _: &NodeConfig,
    _: StoreMetrics,
    _: &NodeTls,
) -> Result<Arc<dyn Region>, AssembleError> {
    let error = "store.url: expected memory: because this program was built without the feature redis";
    Err(AssembleError::Settings(vec![error.to_owned()]))
}

/// The Redis of the region, not yet connected.
#[cfg(feature = "redis")]
fn redis_region(
    settings: &Settings,
    redis: &RedisLocation,
    node: &NodeConfig,
    metrics: StoreMetrics,
    tls: &NodeTls,
) -> Result<Arc<dyn Region>, AssembleError> {
    let (mut errors, store) = (Vec::new(), &settings.store);
    let mut read = |field: &str, path: &Option<std::path::PathBuf>| {
        let path = path.as_ref()?;
        let text = std::fs::read(path);
        text.map_err(|error| errors.push(format!("store.{field}: {}: {error}", path.display()))).ok()
    };
    let password = read("password_file", &store.password_file);
    if !errors.is_empty() {
        return Err(AssembleError::Settings(errors));
    }
    let mut redis = redis.clone();
    if let Some(password) = password {
        // Editors end a file with a line break, which is not part of the secret.
        redis.password = Some(String::from_utf8_lossy(&password).trim_end_matches(['\r', '\n']).to_owned());
    }
    redis.username = store.username.clone().or(redis.username);
    let config = RedisConfig {
        redis,
        tls: tls.store.clone(),
        region: settings.region.clone(),
        node: settings.node.clone(),
        boot: clock::random()?,
        cores: node.cores(),
        key_prefix: store.key_prefix.clone(),
        tags: store.tags,
        hash_keys: store.hash_keys,
        deadline: Duration::from_millis(store.deadline_ms),
        metrics,
    };
    Ok(Arc::new(RedisRegion::new(config)))
}

fn node_config(settings: &Settings) -> NodeConfig {
    NodeConfig {
        workers: std::num::NonZeroUsize::new(settings.workers).unwrap_or_else(machine::cores),
        max_keys: match settings.limits.max_keys {
            0 => machine::keys(settings.store.location == StoreLocation::Memory),
            keys => keys,
        },
        max_pending: settings.limits.max_pending,
        max_connections: settings.limits.max_connections,
        max_connections_per_peer: settings.limits.max_connections_per_peer,
        lease_us: settings.store.lease_ms * 1000,
        deadline_us: settings.store.deadline_ms * 1000,
        min_holders: settings.store.min_holders,
        hash_keys: settings.store.hash_keys,
        drain: Duration::from_millis(settings.limits.drain_ms),
        trust: settings.listen.trust.clone(),
        origins: settings.listen.cors_origins.clone().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::metrics::NodeStats;
    use crate::telemetry::names;

    #[test]
    fn every_metric_shown_is_on_the_closed_list_and_no_bundle_has_the_name_of_another() {
        let registry = MetricsRegistry::new("1", "abc").unwrap();
        StoreMetrics::new(&registry).unwrap().set_advice("evicts", true);
        RuleFileMetrics::new(&registry).unwrap().invalid();
        let metrics = NodeMetrics::new(registry).unwrap();
        metrics.checks.failed(Some("keys"));
        let text = metrics.render(&NodeStats { batches: 5, ..NodeStats::default() }).unwrap();
        let text = text + &metrics.render(&NodeStats { batches: 7, ..NodeStats::default() }).unwrap();
        assert!(text.contains("tidegate_store_batches_total 5") && text.contains("tidegate_store_batches_total 7"));
        for line in text.lines().filter(|l| l.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(name.starts_with("process_") || names::ALL.iter().any(|n| n.name == name), "{name}");
        }
    }
}
