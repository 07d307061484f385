//! A node's place in its region: finds the primaries, compares the region's constants, sends heartbeats, learns the
//! other members, and audits the settings of the primaries. It runs apart from the cores: no check waits for it.

mod constants;
mod control_loop;
mod health;
mod heartbeat;
mod members;
mod topology_changes;

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use bytes::Bytes;
use counter_script::Tags;
use tokio::sync::{Notify, watch};

use super::config::RedisConfig;
use super::config_audit::ConfigWarning;
use super::connect_options::ConnectOptions;
use super::connection_pool::ConnectionPool;
use super::counter_store::RedisStore;
use super::server_errors::ServerErrors;
use super::topology::Topology;
use super::topology_discovery::TopologyDiscovery;
use crate::ports::{BoxFuture, CounterStore, Fatal, Region, RegionState, Service, Shutdown, StoreHealth};
use crate::store::location::Deployment;
use constants::RegionConstants;
use members::{Member, Members};

/// The shortest deadline of calls that no check waits for.
const MIN_CONTROL_DEADLINE: Duration = Duration::from_millis(500);
/// The hash tag of the region's own keys, so that one script call may use several of them.
const TAG: &str = "{region}";

/// Why a node must not serve: it would count separately from its region.
struct Unfit(String);

/// The region's Redis, as one process sees it.
pub struct RedisRegion {
    config: RedisConfig,
    tags: Arc<Tags>,
    constants: RegionConstants,
    /// This process among the members.
    own_member: Member,
    /// The options of the cores' connections.
    options: ConnectOptions,
    discovery: TopologyDiscovery,
    /// The region's own connections to the primaries.
    pool: ConnectionPool,
    /// The topology that the stores use.
    topology: watch::Sender<Option<Arc<Topology>>>,
    /// Notified when the topology seems to have changed.
    topology_stale: Arc<Notify>,
    holders: watch::Sender<u32>,
    stores: Mutex<Vec<Weak<RedisStore>>>,
    server_errors: Arc<ServerErrors>,
    state: Mutex<State>,
    /// True while the region's constants differ from this node's, although they were the same before. The stores then
    /// send nothing: the node would count apart from its region.
    constants_differ: Arc<AtomicBool>,
    /// True once this process has left the members. Held during each heartbeat, so that none comes after the end.
    left: tokio::sync::Mutex<bool>,
}

#[derive(Default)]
struct State {
    /// True after the first heartbeat.
    reached: bool,
    /// Heartbeats that found this node's constants in force.
    matching_heartbeats: u32,
    health: StoreHealth,
    warnings: Vec<ConfigWarning>,
    members: Members,
}

impl RedisRegion {
    pub fn new(config: RedisConfig) -> Self {
        let redis = &config.redis;
        let options = ConnectOptions {
            username: redis.username.clone(),
            password: redis.password.clone(),
            database: redis.database,
            tls: config.tls.clone(),
            deadline: config.deadline,
            metrics: config.metrics.clone(),
        };
        let control_options = ConnectOptions { deadline: config.deadline.max(MIN_CONTROL_DEADLINE), ..options.clone() };
        let tags = Arc::new(Tags::new(config.tags));
        Self {
            constants: RegionConstants::new(tags.count(), config.hash_keys),
            tags,
            own_member: Member { node: config.node.clone(), boot: config.boot, cores: config.cores },
            discovery: TopologyDiscovery::new(redis, &control_options),
            pool: ConnectionPool::new(control_options),
            topology: watch::Sender::new(None),
            topology_stale: Arc::new(Notify::new()),
            holders: watch::Sender::new(config.cores),
            stores: Mutex::default(),
            server_errors: Arc::default(),
            state: Mutex::default(),
            constants_differ: Arc::default(),
            left: tokio::sync::Mutex::new(false),
            options,
            config,
        }
    }

    fn in_cluster(&self) -> bool {
        self.config.redis.deployment == Deployment::Cluster
    }

    /// Returns the key of the region's own record `name`.
    fn key(&self, name: &str) -> Bytes {
        format!("{}:{}:{TAG}{name}", self.config.key_prefix, self.config.region).into()
    }

    fn lock_state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Region for RedisRegion {
    fn store(&self) -> Arc<dyn CounterStore> {
        let prefix = |(tag, _)| format!("{}:{}:{{{tag}}}", self.config.key_prefix, self.config.region).into_bytes();
        let store = Arc::new(RedisStore {
            key_prefixes: self.tags.each().map(prefix).collect(),
            fence_key: self.fence_key(),
            tags: Arc::clone(&self.tags),
            pool: ConnectionPool::new(self.options.clone()),
            primaries: Mutex::default(),
            topology: self.topology.subscribe(),
            topology_stale: Arc::clone(&self.topology_stale),
            server_errors: Arc::clone(&self.server_errors),
            wait_ms: u64::try_from(self.options.deadline.as_millis() / 2).unwrap_or(u64::MAX).max(1),
            constants_differ: Arc::clone(&self.constants_differ),
            reached: AtomicBool::new(false),
        });
        self.stores.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::downgrade(&store));
        store
    }

    fn holders(&self) -> watch::Receiver<u32> {
        self.holders.subscribe()
    }

    fn state(&self) -> RegionState {
        self.region_state()
    }
}

impl Service for RedisRegion {
    fn name(&self) -> &'static str {
        "region"
    }

    fn run(&self, mut shutdown: Shutdown) -> BoxFuture<'_, Result<(), Fatal>> {
        Box::pin(async move {
            tokio::select! {
                Unfit(reason) = self.run_control_loop() => Err(Fatal::Configuration(reason)),
                () = self.discovery.watch(&self.topology_stale) => std::future::pending().await,
                () = shutdown.requested() => Ok(()),
            }
        })
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(self.remove_own_member())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::store::location::{Address, RedisLocation};
    use crate::store::metrics::StoreMetrics;
    use crate::telemetry::registry::MetricsRegistry;

    pub(super) fn region() -> RedisRegion {
        let redis = RedisLocation {
            deployment: Deployment::Single,
            tls: false,
            seeds: vec![Address::new("127.0.0.1".to_owned(), 1)],
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            database: 0,
        };
        RedisRegion::new(RedisConfig {
            redis,
            tls: None,
            region: "us-east".to_owned(),
            node: "a".to_owned(),
            boot: 10,
            cores: 2,
            key_prefix: "tidegate".to_owned(),
            tags: 32,
            hash_keys: false,
            deadline: Duration::from_millis(100),
            metrics: StoreMetrics::new(&MetricsRegistry::new("1", "abc").unwrap()).unwrap(),
        })
    }

    #[test]
    fn holders_are_the_cores_of_all_members_and_never_fewer_than_the_own_cores() {
        let region = region();
        assert_eq!(*region.holders().borrow(), 2);
        region.update_members(&["b/7/4".to_owned()], true);
        assert_eq!(*region.holders().borrow(), 4);
        region.update_members(&["a/a/2".to_owned(), "no member".to_owned()], true);
        assert_eq!(*region.holders().borrow(), 6);
        assert!(region.state().reached);
    }

    #[test]
    fn the_store_is_failing_until_the_first_heartbeat() {
        let region = region();
        assert_eq!(region.state().store, StoreHealth::Failing("no answer yet".to_owned()));
        region.update_members(&[], true);
        assert_eq!(region.state().store, StoreHealth::Ok);
    }
}
