//! The metrics of rule files.

use prometheus::{Error, IntCounter};

use crate::telemetry::names;
use crate::telemetry::registry::MetricsRegistry;

/// Counts the rule files that were read.
#[derive(Clone)]
pub struct RuleFileMetrics {
    valid: IntCounter,
    invalid: IntCounter,
}

impl RuleFileMetrics {
    /// # Errors
    /// Returns an error if the registry has these metrics already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        let loads = registry.counters(&names::RELOADS)?;
        Ok(Self { valid: loads.with_label_values(&["taken"]), invalid: loads.with_label_values(&["refused"]) })
    }

    /// Counts rules that are in force now.
    pub fn valid(&self) {
        self.valid.inc();
    }

    /// Counts a file that was unreadable or invalid.
    pub fn invalid(&self) {
        self.invalid.inc();
    }
}
