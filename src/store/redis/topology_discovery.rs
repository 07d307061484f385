//! Finds out which servers are the primaries: by DNS, from Sentinels, or from the servers of a cluster.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::super::location::{Address, Deployment, RedisLocation};
use super::connect_options::ConnectOptions;
use super::connection::Connection;
use super::connection_pool::ConnectionPool;
use super::sentinels::Sentinels;
use super::topology::Topology;

/// The longest duration of a DNS lookup.
const DNS_TIMEOUT: Duration = Duration::from_secs(1);

/// Finds the primaries of a deployment.
pub enum TopologyDiscovery {
    /// One server by its host name: a managed service changes the address of the name when it replaces the server.
    Single(Option<Address>),
    Sentinels(Sentinels),
    Cluster {
        seeds: Vec<Address>,
        /// Connections to the seeds, for as long as no primary answers.
        pool: ConnectionPool,
    },
}

impl TopologyDiscovery {
    pub fn new(redis: &RedisLocation, options: &ConnectOptions) -> Self {
        let (seeds, mut options) = (redis.seeds.clone(), options.clone());
        match &redis.deployment {
            Deployment::Single => Self::Single(seeds.first().cloned()),
            Deployment::Sentinel { service } => {
                // Sentinels have users of their own and no databases.
                options.username.clone_from(&redis.sentinel_username);
                options.password.clone_from(&redis.sentinel_password);
                options.database = 0;
                Self::Sentinels(Sentinels::new(service.clone(), seeds, options))
            }
            Deployment::Cluster => Self::Cluster { seeds, pool: ConnectionPool::new(options) },
        }
    }

    /// Notifies `changed` as soon as another primary is announced. Only Sentinels announce. Never returns.
    pub async fn watch(&self, changed: &Notify) {
        match self {
            Self::Sentinels(sentinels) => sentinels.watch(changed).await,
            Self::Single(_) | Self::Cluster { .. } => std::future::pending().await,
        }
    }

    /// True if [`Self::find`] costs little enough to run with every heartbeat.
    pub const fn is_cheap(&self) -> bool {
        !matches!(self, Self::Cluster { .. })
    }

    /// Returns the current topology. In a cluster the first server that answers decides, and the `known` primaries are
    /// asked before the seeds.
    ///
    /// # Errors
    /// Why no primary was found.
    pub async fn find(&self, known: &[Arc<Connection>]) -> Result<Topology, String> {
        match self {
            Self::Single(None) => Err("the store URL names no server".to_owned()),
            Self::Single(Some(seed)) => {
                let known = known.iter().find(|known| known.address.host == seed.host);
                resolve(seed, known.map(|known| &**known)).await.map(Topology::single)
            }
            Self::Sentinels(sentinels) => sentinels.primary().await.map(Topology::single),
            Self::Cluster { seeds, pool } => find_in_cluster(seeds, pool, known).await,
        }
    }
}

async fn find_in_cluster(
    seeds: &[Address],
    pool: &ConnectionPool,
    known: &[Arc<Connection>],
) -> Result<Topology, String> {
    let known: Vec<_> = known.iter().filter(|connection| connection.is_up()).cloned().collect();
    // A server that is cut off from the majority does not know that it was replaced: its view is the last resort.
    let (mut minority_view, mut errors) = (None, Vec::new());
    for connection in &known {
        match cluster_view(connection).await {
            Some((topology, true)) => {
                // Closes the connections to the seeds, which may be long gone: from now on the primaries are asked.
                pool.set_servers(&[]);
                return Ok(topology);
            }
            view => minority_view = minority_view.or(view),
        }
    }
    for seed in seeds.iter().filter(|seed| known.iter().all(|known| known.address != **seed)) {
        let connection = pool.get_or_open(seed);
        if !connection.wait_connected().await {
            errors.push(format!("no answer from {}", connection.address_and_error()));
            continue;
        }
        match cluster_view(&connection).await {
            Some((topology, true)) => return Ok(topology),
            None => errors.push(format!("{seed} gave no usable answer to CLUSTER SLOTS")),
            view => minority_view = minority_view.or(view),
        }
    }
    minority_view.map(|(topology, _)| topology).ok_or_else(|| errors.join(", "))
}

/// Returns a server's view of the cluster, and whether the server is connected to the majority of the primaries.
async fn cluster_view(connection: &Connection) -> Option<(Topology, bool)> {
    let slots = connection.command("CLUSTER", &["SLOTS"]).await.ok()?;
    let topology = Topology::from_cluster_slots(&slots, &connection.address)?;
    let info = connection.command("CLUSTER", &["INFO"]).await;
    // A server that does not permit CLUSTER INFO is assumed to be with the majority.
    let majority = info.map_or(true, |info| info.as_string().is_none_or(|info| !info.contains("cluster_state:fail")));
    Some((topology, majority))
}

/// Resolves the host name of a server. The `known` address stays while the server answers there and the name still has
/// that address or cannot be resolved. Otherwise the next address of the name is tried.
async fn resolve(seed: &Address, known: Option<&Connection>) -> Result<Address, String> {
    if seed.host.parse::<IpAddr>().is_ok() {
        return Ok(seed.clone());
    }
    let looked_up = tokio::time::timeout(DNS_TIMEOUT, tokio::net::lookup_host((seed.host.as_str(), seed.port))).await;
    let found: Vec<IpAddr> =
        looked_up.ok().and_then(Result::ok).into_iter().flatten().map(|address| address.ip()).collect();
    // A connection that is still being opened counts as one that answers.
    let answers = known.is_some_and(|known| known.is_up() || known.is_connecting());
    let known = known.map(|known| &known.address);
    next_address(&found, known.and_then(|known| known.ip), answers)
        .map(|ip| Address { ip: Some(ip), ..seed.clone() })
        .or_else(|| known.cloned())
        .ok_or_else(|| format!("the host name {} cannot be resolved", seed.host))
}

/// Returns the address to use, of those that were `found` for the name; `None` if none was found. `answers` says
/// whether the server answers at the `known` address.
fn next_address(found: &[IpAddr], known: Option<IpAddr>, answers: bool) -> Option<IpAddr> {
    let position = known.and_then(|known| found.iter().position(|ip| *ip == known));
    match position {
        Some(position) if !answers => found.get((position + 1) % found.len()).copied(),
        Some(_) => known,
        None => found.first().copied(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_address_of_a_name_is_used_and_each_of_its_addresses_is_tried() {
        let [a, b, c] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        assert_eq!(next_address(&[a, b], None, false), Some(a));
        assert_eq!(next_address(&[b, a], Some(a), true), Some(a), "the order of the addresses means nothing");
        assert_eq!(next_address(&[a, b], Some(a), false), Some(b), "the server does not answer at the known address");
        assert_eq!(next_address(&[a, b], Some(b), false), Some(a));
        assert_eq!(next_address(&[c], Some(a), true), Some(c), "the name has another address now");
        assert_eq!(next_address(&[], Some(a), true), None);
    }
}
