//! The metrics of a store.

use prometheus::{Error, IntCounter, IntGaugeVec};

use crate::telemetry::names;
use crate::telemetry::registry::MetricsRegistry;

/// Counts what goes wrong between a node and its store, and shows which settings of the store weaken the promises.
#[derive(Clone)]
pub struct StoreMetrics {
    connection_errors: IntCounter,
    advice: IntGaugeVec,
    /// Records that the memory store forgot before they expired.
    pub evicted: IntCounter,
}

impl StoreMetrics {
    /// # Errors
    /// Returns an error if the registry has these metrics already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        Ok(Self {
            connection_errors: registry.counter(&names::REDIS_ERRORS)?,
            advice: registry.gauges(&names::ADVICE)?,
            evicted: registry.counter(&names::EVICTED)?,
        })
    }

    /// Counts a connection that failed or was lost.
    pub fn connection_error(&self) {
        self.connection_errors.inc();
    }

    /// Records whether a setting of the store weakens the promises. `advice` is its label.
    pub fn set_advice(&self, advice: &'static str, weakens: bool) {
        self.advice.with_label_values(&[advice]).set(weakens.into());
    }
}
