//! The metrics of a node as a whole.

use std::sync::Arc;

use limiter::invariant::{self, Invariant};
use limiter::{Revision, ShardStats};
use prometheus::{Error, IntCounter, IntCounterVec, IntGauge};

use crate::api::http::forward_auth::notices::Notices;
use crate::ports::{BoxFuture, Fatal, RuleSource, Service, Shutdown};
use crate::server::metrics::ConnectionMetrics;
use crate::telemetry::checks::CheckMetrics;
use crate::telemetry::names;
use crate::telemetry::registry::MetricsRegistry;

/// The numbers of all cores together at one instant.
#[derive(Clone, Copy, Debug, Default)]
pub struct NodeStats {
    pub keys: u64,
    pub waiting: u64,
    pub without_room: u64,
    pub tasks: u64,
    pub batches: u64,
    pub items: u64,
    pub failed_batches: u64,
    pub failed_items: u64,
    pub restarts: u64,
    pub revision: Revision,
    pub holders: u64,
    pub store_ok: bool,
}

impl NodeStats {
    /// Adds the numbers of one core.
    pub const fn add(&mut self, stats: ShardStats, restarts: u64) {
        self.keys += stats.keys as u64;
        self.waiting += stats.waiting as u64;
        self.without_room += stats.without_room;
        self.batches += stats.batches;
        self.items += stats.items;
        self.failed_batches += stats.failed_batches;
        self.failed_items += stats.failed_items;
        self.restarts += restarts;
    }
}

/// The metrics of a node: those of its checks and connections, and its [`NodeStats`].
pub struct NodeMetrics {
    registry: MetricsRegistry,
    pub checks: Arc<CheckMetrics>,
    pub connections: ConnectionMetrics,
    pub forward_auth: Arc<Notices>,
    keys: IntGauge,
    waiting: IntGauge,
    without_room: IntCounter,
    tasks: IntGauge,
    batches: IntCounter,
    items: IntCounter,
    failed_batches: IntCounter,
    failed_items: IntCounter,
    holders: IntGauge,
    store_ok: IntGauge,
    restarts: IntCounter,
    invariants: IntCounterVec,
    revision: IntGauge,
}

impl NodeMetrics {
    /// # Errors
    /// Returns an error if the registry has these metrics already.
    pub fn new(registry: MetricsRegistry) -> Result<Self, Error> {
        Ok(Self {
            checks: Arc::new(CheckMetrics::new(&registry)?),
            connections: ConnectionMetrics::new(&registry)?,
            forward_auth: Arc::new(Notices::new(&registry)?),
            keys: registry.gauge(&names::KEYS)?,
            waiting: registry.gauge(&names::WAITING)?,
            without_room: registry.counter(&names::WITHOUT_ROOM)?,
            tasks: registry.gauge(&names::TASKS)?,
            batches: registry.counter(&names::BATCHES)?,
            items: registry.counter(&names::ITEMS)?,
            failed_batches: registry.counter(&names::FAILED_BATCHES)?,
            failed_items: registry.counter(&names::FAILED_ITEMS)?,
            holders: registry.gauge(&names::HOLDERS)?,
            store_ok: registry.gauge(&names::STORE_OK)?,
            restarts: registry.counter(&names::RESTARTS)?,
            invariants: registry.counters(&names::INVARIANTS)?,
            revision: registry.gauge(&names::REVISION)?,
            registry,
        })
    }

    /// Renders every metric of the registry in the text format of Prometheus. Calls must not overlap.
    ///
    /// # Errors
    /// Returns an error if the encoder rejects a metric.
    pub fn render(&self, stats: &NodeStats) -> Result<String, Error> {
        self.checks.flush();
        let gauge = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge(&self.keys, stats.keys);
        gauge(&self.waiting, stats.waiting);
        gauge(&self.tasks, stats.tasks);
        gauge(&self.revision, stats.revision.0);
        gauge(&self.holders, stats.holders);
        gauge(&self.store_ok, stats.store_ok.into());
        let advance_to = |counter: &IntCounter, to: u64| counter.inc_by(to.saturating_sub(counter.get()));
        advance_to(&self.without_room, stats.without_room);
        advance_to(&self.batches, stats.batches);
        advance_to(&self.items, stats.items);
        advance_to(&self.failed_batches, stats.failed_batches);
        advance_to(&self.failed_items, stats.failed_items);
        advance_to(&self.restarts, stats.restarts);
        for invariant in Invariant::ALL {
            advance_to(&self.invariants.with_label_values(&[invariant.id()]), invariant::broken(invariant));
        }
        self.registry.render()
    }
}

/// Begins the series of domains that rules have, and removes those of limits that new rules no longer have.
pub struct SeriesRemover {
    pub rules: Arc<dyn RuleSource>,
    pub checks: Arc<CheckMetrics>,
}

impl Service for SeriesRemover {
    fn name(&self) -> &'static str {
        "metric series"
    }

    fn run(&self, mut shutdown: Shutdown) -> BoxFuture<'_, Result<(), Fatal>> {
        Box::pin(async move {
            let mut rules = self.rules.follow();
            loop {
                let book = Arc::clone(&rules.borrow_and_update());
                self.checks.retain_limits(&book);
                tokio::select! {
                    changed = rules.changed() => if changed.is_err() {
                        // The rules of this source never change again.
                        shutdown.requested().await;
                        return Ok(());
                    },
                    () = shutdown.requested() => return Ok(()),
                }
            }
        })
    }
}
