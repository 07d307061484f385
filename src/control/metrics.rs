//! The metrics of the configuration plane.

use prometheus::{Error, IntCounter, IntCounterVec, IntGauge};

use crate::telemetry::names;
use crate::telemetry::registry::MetricsRegistry;

/// The metrics of the configuration plane of one node.
#[derive(Clone)]
pub struct PlaneMetrics {
    loads: IntCounterVec,
    ok: IntGauge,
    pub refused: IntGauge,
    pub follow_errors: IntCounter,
    pub reconciled: IntCounter,
}

impl PlaneMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// Returns an error if they exist already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        let metrics = Self {
            loads: registry.counters(&names::RELOADS)?,
            ok: registry.gauge(&names::RULES_OK)?,
            refused: registry.gauge(&names::REFUSED)?,
            follow_errors: registry.counter(&names::FOLLOW_ERRORS)?,
            reconciled: registry.counter(&names::RECONCILED)?,
        };
        metrics.ok.set(1);
        Ok(metrics)
    }

    /// Counts a book that was compiled.
    pub(super) fn book(&self, valid: bool) {
        self.loads.with_label_values(&[if valid { "taken" } else { "refused" }]).inc();
    }

    pub(super) fn set_in_force(&self, in_force: bool) {
        self.ok.set(in_force.into());
    }
}
