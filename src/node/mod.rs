//! A node: [`assemble`] builds its parts and is the only file that names adapters, [`run`] runs them.
//!
//! Every core has a runtime and a shard of its own, and shares nothing but the store. One more runtime runs what no
//! check waits for: the background services and the metrics.

pub mod assemble;
pub mod metrics;
mod runtime;
mod services;
mod state;
mod worker;

use std::io;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderValue;

use crate::api::http::forward_auth::trust::Trust;
use crate::ports::identity::Identities;
use crate::ports::{ClientTokens, Clock, Fatal, Gossip, Region, RuleSource, Service};
use crate::tls::ServerTls;
use metrics::NodeMetrics;

pub use runtime::run;

/// How a node behaves.
#[derive(Clone, Debug)]
pub struct NodeConfig {
    /// Cores to serve on.
    pub workers: NonZeroUsize,
    /// The most resident keys, over all cores.
    pub max_keys: usize,
    /// The most checks that wait for the store, over all cores.
    pub max_pending: usize,
    /// The most connections of clients, on each listener.
    pub max_connections: usize,
    /// The most connections of one peer, on each listener. Trusted proxies and this machine have no such bound.
    pub max_connections_per_peer: usize,
    pub lease_us: u64,
    pub deadline_us: u64,
    pub min_holders: u32,
    /// Values of checks stand in the keys of the store only as a hash.
    pub hash_keys: bool,
    /// The longest time that a node takes to leave.
    pub drain: Duration,
    pub trust: Trust,
    /// The origins whose web pages may ask for checks.
    pub origins: Arc<[HeaderValue]>,
}

impl NodeConfig {
    /// The number of holders that the node is.
    pub fn cores(&self) -> u32 {
        u32::try_from(self.workers.get()).unwrap_or(u32::MAX)
    }
}

/// The parts that a node is built from.
pub struct Environment {
    pub clock: Arc<dyn Clock>,
    /// Draws seeds and identifiers.
    pub random: fn() -> io::Result<u64>,
    pub region: Arc<dyn Region>,
    /// The talk with other regions; `None` if there is none.
    pub gossip: Option<Arc<dyn Gossip>>,
    pub rules: Arc<dyn RuleSource>,
    pub identities: Arc<dyn Identities>,
    pub metrics: Arc<NodeMetrics>,
    /// TLS of the listeners for checks; `None` if they are plain.
    pub tls: Option<ServerTls>,
    /// The tokens of the clients that may ask for checks; `None` if clients need none.
    pub tokens: Option<Arc<dyn ClientTokens>>,
    /// What weakens the promises of this node whatever its store and its rules are.
    pub advice: Vec<&'static str>,
    /// Background services, in the order of their start.
    pub services: Vec<Arc<dyn Service>>,
}

/// Why a node ended by itself.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(transparent)]
    Core(#[from] io::Error),
    #[error(transparent)]
    Service(#[from] Fatal),
}
