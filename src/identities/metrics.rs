//! The metrics of identities.

use prometheus::{Error, IntCounter, IntCounterVec};

use crate::ports::identity::KeyAnswer;
use crate::telemetry::names;
use crate::telemetry::registry::MetricsRegistry;

/// Counts answers about keys, and look-ups.
#[derive(Clone)]
pub struct IdentityMetrics {
    answers: [IntCounter; 5],
    pub(super) found: IntCounter,
    pub(super) missed: IntCounter,
    pub(super) failed: IntCounter,
    pub(super) over_budget: IntCounter,
}

impl IdentityMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// Returns an error if they exist already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        let answers: IntCounterVec = registry.counters(&names::IDENTITIES)?;
        let lookups = registry.counters(&names::LOOKUPS)?;
        let words = ["valid", "unknown", "expired", "revoked", "unavailable"];
        let lookup = |outcome| lookups.with_label_values(&[outcome]);
        Ok(Self {
            answers: words.map(|word| answers.with_label_values(&[word])),
            found: lookup("found"),
            missed: lookup("missed"),
            failed: lookup("failed"),
            over_budget: lookup("over_budget"),
        })
    }

    pub(super) fn answered(&self, answer: &KeyAnswer) {
        let place = match answer {
            KeyAnswer::Valid(_) => 0,
            KeyAnswer::Unknown => 1,
            KeyAnswer::Expired => 2,
            KeyAnswer::Revoked => 3,
            KeyAnswer::Unavailable => 4,
        };
        self.answers[place].inc();
    }
}
