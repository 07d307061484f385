//! The metrics of certificates.

use prometheus::{Error, IntCounterVec, IntGaugeVec};

use crate::telemetry::names;
use crate::telemetry::registry::MetricsRegistry;

/// Shows when the certificates of listeners end, and counts files that could not be taken.
#[derive(Clone)]
pub struct TlsMetrics {
    expiry: IntGaugeVec,
    reload_failures: IntCounterVec,
}

impl TlsMetrics {
    /// # Errors
    /// Returns an error if the registry has these metrics already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        Ok(Self {
            expiry: registry.gauges(&names::CERTIFICATE_EXPIRY)?,
            reload_failures: registry.counters(&names::CERTIFICATE_RELOAD_FAILURES)?,
        })
    }

    /// Shows that the certificate of the listener `face` ends at `expires_at`, in seconds since the epoch.
    pub(super) fn expires(&self, face: &'static str, expires_at: i64) {
        self.expiry.with_label_values(&[face]).set(expires_at);
    }

    /// Shows the section of the settings from the start.
    pub(super) fn watches(&self, section: &'static str) {
        self.reload_failures.with_label_values(&[section]);
    }

    /// Counts files of a section of the settings that changed and could not be taken.
    pub(super) fn reload_failed(&self, section: &'static str) {
        self.reload_failures.with_label_values(&[section]).inc();
    }
}
