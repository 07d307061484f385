//! The metrics of the admin API.

use prometheus::{Error, IntCounterVec};

use crate::telemetry::names;
use crate::telemetry::registry::MetricsRegistry;

/// Counts admin calls that were rejected for their token.
#[derive(Clone)]
pub struct AdminMetrics(IntCounterVec);

impl AdminMetrics {
    /// # Errors
    /// Returns an error if the registry has these metrics already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        Ok(Self(registry.counters(&names::ADMIN_REJECTIONS)?))
    }

    pub fn wrong_token(&self) {
        self.0.with_label_values(&["wrong_token"]).inc();
    }

    pub fn throttled(&self) {
        self.0.with_label_values(&["throttled"]).inc();
    }
}
