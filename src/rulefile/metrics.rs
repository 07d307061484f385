//! The metrics of rule files.

use prometheus::{Error, IntCounter, IntGauge};

use crate::telemetry::names;
use crate::telemetry::registry::MetricsRegistry;

/// Counts the rule files that were read, and shows whether the last one is in force.
#[derive(Clone)]
pub struct RuleFileMetrics {
    valid: IntCounter,
    invalid: IntCounter,
    ok: IntGauge,
}

impl RuleFileMetrics {
    /// # Errors
    /// Returns an error if the registry has these metrics already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        let loads = registry.counters(&names::RELOADS)?;
        let ok = registry.gauge(&names::RULES_OK)?;
        ok.set(1);
        Ok(Self { valid: loads.with_label_values(&["taken"]), invalid: loads.with_label_values(&["refused"]), ok })
    }

    /// Counts rules that are in force now.
    pub fn valid(&self) {
        self.valid.inc();
    }

    /// Counts a file that was unreadable or invalid.
    pub fn invalid(&self) {
        self.invalid.inc();
    }

    /// Shows whether the rules that were read last are in force.
    pub fn set_ok(&self, ok: bool) {
        self.ok.set(ok.into());
    }
}
