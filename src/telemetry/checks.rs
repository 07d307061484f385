//! The metrics of checks: what was decided, and what was not.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use limiter::rules::RuleBook;
use prometheus::core::Collector;
use prometheus::{Error, IntCounter, IntCounterVec};

use super::log_gate::LogGate;
use super::names;
use super::registry::MetricsRegistry;
use super::tally::{Counted, Tally};

/// Upper bounds of the latency buckets, in seconds: from a decision in place to one without the store.
const LATENCY_BUCKETS: [f64; 14] =
    [5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.5];

/// The reasons for which a node sheds load.
const SHED_REASONS: [&str; 5] = ["waiting", "keys", "restart", "starting", "reading"];

/// The counters of all checks of a node.
pub struct CheckMetrics {
    errors: IntCounter,
    shed: IntCounterVec,
    pub unreadable: IntCounter,
    pub unknown_fields: IntCounter,
    /// Calls without a valid token, by front end.
    pub unauthorized: IntCounterVec,
    /// Admits the log lines about calls without a valid token.
    pub unauthorized_log: LogGate,
    /// Admits the log lines about calls that are invalid.
    pub invalid_calls_log: LogGate,
    /// Admits the log lines about unknown fields.
    pub unknown_fields_log: LogGate,
    counted: Counted,
    /// One per core.
    tallies: Mutex<Vec<Arc<Tally>>>,
}

impl CheckMetrics {
    /// # Errors
    /// Returns an error if the registry has these metrics already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        let requests = registry.counters(&names::REQUESTS)?;
        let of = |status: &str| requests.with_label_values(&[status]);
        let shed = registry.counters(&names::SHED)?;
        // A series that begins with its first event would hide that event.
        SHED_REASONS.iter().for_each(|reason| drop(shed.with_label_values(&[reason])));
        let counted = Counted {
            requests: [of("allowed"), of("blocked")],
            latency: registry.histogram(&names::LATENCY, &LATENCY_BUCKETS)?,
            degraded: registry.counters(&names::DEGRADED)?.with_label_values(&["store"]),
            checks: registry.counters(&names::CHECKS)?,
            decisions: registry.counters(&names::DECISIONS)?,
            unmatched: registry.counters(&names::UNMATCHED)?,
        };
        // A misspelt domain shows here from its first check.
        drop(counted.unmatched.with_label_values(&[names::OTHER]));
        Ok(Self {
            errors: of("error"),
            shed,
            unreadable: registry.counter(&names::UNREADABLE)?,
            unknown_fields: registry.counter(&names::UNKNOWN_FIELDS)?,
            unauthorized: registry.counters(&names::UNAUTHORIZED)?,
            unauthorized_log: LogGate::default(),
            invalid_calls_log: LogGate::default(),
            unknown_fields_log: LogGate::default(),
            counted,
            tallies: Mutex::default(),
        })
    }

    /// Creates the tally of one core. The metrics show the sum of all tallies after [`Self::flush`].
    pub fn tally(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally::new(self.counted.clone()));
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&tally));
        tally
    }

    /// Counts a check that was answered with an error. `shed` is the reason if the node shed load.
    pub fn failed(&self, shed: Option<&'static str>) {
        self.errors.inc();
        self.counted.checks.with_label_values(&[names::OTHER, "error"]).inc();
        if let Some(reason) = shed {
            self.shed.with_label_values(&[reason]).inc();
        }
    }

    /// Adds the tally of every core to the metrics.
    pub fn flush(&self) {
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|tally| tally.flush());
    }

    /// Removes the series of domains and limits that these rules do not have, so that edits do not accumulate series.
    /// Begins the series of unmatched checks of each domain, so that none hides its first event.
    pub fn retain_limits(&self, book: &RuleBook) {
        let domains = || book.rules().domains.iter();
        let limits: HashSet<(&str, &str)> = domains()
            .flat_map(|d| d.limits.iter().map(move |limit| (d.domain.as_ref(), limit.name.as_ref())))
            .collect();
        let names: HashSet<&str> = domains().map(|d| d.domain.as_ref()).chain([names::OTHER]).collect();
        retain(&self.counted.checks, names::CHECKS.labels, |labels| names.contains(labels[0]));
        retain(&self.counted.unmatched, names::UNMATCHED.labels, |labels| names.contains(labels[0]));
        names.iter().for_each(|name| drop(self.counted.unmatched.with_label_values(&[name])));
        retain(&self.counted.decisions, names::DECISIONS.labels, |labels| {
            names.contains(labels[0]) && (labels[1] == names::OTHER || limits.contains(&(labels[0], labels[1])))
        });
    }
}

/// Removes the series whose labels `keeps` rejects. `names` are the names of the labels, in order.
fn retain(counters: &IntCounterVec, names: &[&str], keeps: impl Fn(&[&str]) -> bool) {
    for family in counters.collect() {
        for series in family.get_metric() {
            let value = |name: &&str| series.get_label().iter().find(|label| label.name() == *name);
            let values: Vec<&str> = names.iter().filter_map(value).map(|label| label.value()).collect();
            if values.len() == names.len() && !keeps(&values) {
                // It exists: it was just listed.
                let _ = counters.remove_label_values(&values);
            }
        }
    }
}
