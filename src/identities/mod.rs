//! The identities of checks: API keys, looked up and cached.
//!
//! What a look-up found is merged with the changes that the cluster replicates ([`plane::resolve`]). So a revocation, a
//! new key and a changed tier count as soon as the node has applied them, whatever the cache holds. Look-ups have a
//! budget, and keys that do not exist are cached apart from keys that do: a flood of random keys neither reaches
//! PostgreSQL nor takes the place of known keys.

mod budget;
mod cache;
mod lookups;
pub mod metrics;

use std::sync::Arc;
use std::time::Duration;

use limiter::NodeTime;
use plane::{CachedKey, KeyHash, KeyVerdict, PlaneState, resolve};
use tokio::sync::{Mutex, mpsc, oneshot, watch};

use self::cache::KeyCache;
use self::lookups::{LookUp, Lookups};
use self::metrics::IdentityMetrics;
use crate::ports::identity::{Identified, Identities, KeyAnswer};
use crate::ports::plane::KeyDirectory;
use crate::ports::{BoxFuture, Clock, Fatal, Service, Shutdown};

/// The most look-ups that wait for the service.
const MAX_QUEUED: usize = 10_000;

/// How long cached keys count, and how many look-ups a node makes.
#[derive(Clone, Copy, Debug)]
pub struct IdentityConfig {
    /// The most keys that are cached.
    pub cache: usize,
    /// How long a cached key counts without a look-up.
    pub ttl: Duration,
    /// The most look-ups in a second.
    pub lookups: u32,
    /// How long a known key counts while PostgreSQL is away, from its look-up on.
    pub stale: Duration,
}

/// The identities of the cluster's API keys. As a service, it makes the look-ups.
pub struct ApiKeys {
    shared: Arc<Shared>,
    queue: mpsc::Sender<LookUp>,
    lookups: Mutex<Lookups>,
}

/// What checks and look-ups share.
struct Shared {
    config: IdentityConfig,
    clock: Arc<dyn Clock>,
    states: watch::Receiver<Arc<PlaneState>>,
    cache: KeyCache,
    metrics: IdentityMetrics,
}

/// What a look-up found, and when.
struct Entry {
    key: CachedKey,
    looked_up_at: NodeTime,
}

impl ApiKeys {
    pub fn new(
        config: IdentityConfig,
        clock: Arc<dyn Clock>,
        states: watch::Receiver<Arc<PlaneState>>,
        directory: Arc<dyn KeyDirectory>,
        metrics: IdentityMetrics,
    ) -> Self {
        let cache = KeyCache::new(config.cache);
        let shared = Arc::new(Shared { config, clock, states, cache, metrics });
        let (queue, queued) = mpsc::channel(MAX_QUEUED);
        let lookups = Mutex::new(Lookups::new(Arc::clone(&shared), directory, queued));
        Self { shared, queue, lookups }
    }
}

impl Shared {
    /// What the node knows of a key without a look-up. `stale` accepts what was looked up longer ago than usual.
    fn known(&self, hash: &KeyHash, stale: bool) -> KeyVerdict {
        let entry = self.cache.get(hash);
        let (now, wall_ms) = (self.clock.now(), self.clock.wall().0 / 1000);
        let most = if stale { self.config.stale } else { self.config.ttl };
        let age = |entry: &Entry| Duration::from_micros(now.since(entry.looked_up_at));
        let entry = entry.filter(|entry| age(entry) < most);
        let state = self.states.borrow();
        resolve(hash, entry.as_ref().map(|entry| &entry.key), state.recent(), wall_ms, stale)
    }

    /// The answer about a key that was not looked up: what is known of it from longer ago.
    fn without_look_up(&self, hash: &KeyHash) -> KeyAnswer {
        answer(self.known(hash, true)).unwrap_or(KeyAnswer::Unavailable)
    }
}

/// The answer of a verdict; `None` if the key must be looked up.
fn answer(verdict: KeyVerdict) -> Option<KeyAnswer> {
    Some(match verdict {
        KeyVerdict::Valid(owner) => KeyAnswer::Valid(owner),
        KeyVerdict::Unknown => KeyAnswer::Unknown,
        KeyVerdict::Expired => KeyAnswer::Expired,
        KeyVerdict::Revoked => KeyAnswer::Revoked,
        KeyVerdict::LookUp => return None,
    })
}

impl Identities for ApiKeys {
    fn identify(&self, key: &str, wait: Duration) -> Identified {
        let hash = KeyHash::of(key);
        if let Some(answer) = answer(self.shared.known(&hash, false)) {
            self.shared.metrics.answered(&answer);
            return Identified::Now(answer);
        }
        let (sender, found) = oneshot::channel();
        let shared = Arc::clone(&self.shared);
        if self.queue.try_send(LookUp { hash, answer: sender }).is_err() {
            shared.metrics.over_budget.inc();
            let answer = shared.without_look_up(&hash);
            shared.metrics.answered(&answer);
            return Identified::Now(answer);
        }
        let without = self.shared.without_look_up(&hash);
        let looked_up = Box::pin(async move {
            // A look-up that takes longer goes on, for later checks. A service that is gone makes no look-ups.
            let found = tokio::time::timeout(wait, found).await;
            let answer = found.ok().and_then(Result::ok).unwrap_or_else(|| shared.without_look_up(&hash));
            shared.metrics.answered(&answer);
            answer
        });
        Identified::Later { looked_up, without }
    }
}

impl Service for ApiKeys {
    fn name(&self) -> &'static str {
        "look-ups of API keys"
    }

    fn run(&self, shutdown: Shutdown) -> BoxFuture<'_, Result<(), Fatal>> {
        Box::pin(async move {
            self.lookups.lock().await.run(shutdown).await;
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests;
