//! The metrics of one node.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    Encoder, Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry, TextEncoder,
};

use super::connections::Connections;
use super::names::{self, Name};
use super::tally::{Counted, OUTCOMES, Tally};
use limiter::invariant::{self, Invariant};
use limiter::rules::Diff;
use limiter::{Revision, ShardStats};

/// Upper bounds of the latency buckets, in seconds: from a decision in place to one without the store.
const LATENCY_BUCKETS: [f64; 14] =
    [5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 0.1, 0.5];

/// Why load is shed.
const SHED_REASONS: [&str; 5] = ["waiting", "keys", "restart", "starting", "reading"];

/// The numbers of all cores together at one instant.
#[derive(Clone, Copy, Debug, Default)]
pub struct Figures {
    pub keys: u64,
    pub waiting: u64,
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

impl Figures {
    /// Adds the numbers of one core.
    pub const fn add(&mut self, stats: ShardStats, restarts: u64) {
        self.keys += stats.keys as u64;
        self.waiting += stats.waiting as u64;
        self.batches += stats.batches;
        self.items += stats.items;
        self.failed_batches += stats.failed_batches;
        self.failed_items += stats.failed_items;
        self.restarts += restarts;
    }
}

/// Every metric of [`names::ALL`].
pub struct Metrics {
    registry: Registry,
    errors: IntCounter,
    counted: Counted,
    /// One per core.
    tallies: Mutex<Vec<Arc<Tally>>>,
    shed: IntCounterVec,
    keys: IntGauge,
    waiting: IntGauge,
    tasks: IntGauge,
    batches: IntCounter,
    items: IntCounter,
    failed_batches: IntCounter,
    failed_items: IntCounter,
    connections: IntGaugeVec,
    closed: IntCounterVec,
    redis_errors: IntCounter,
    holders: IntGauge,
    store_ok: IntGauge,
    advice: IntGaugeVec,
    restarts: IntCounter,
    invariants: IntCounterVec,
    revision: IntGauge,
    loads: IntCounterVec,
    /// One scrape at a time raises the counters.
    scrape: Mutex<()>,
}

impl Metrics {
    /// All metrics at zero. `version` and `commit` are those of this program.
    ///
    /// # Errors
    /// When two metrics of the closed list have one name.
    pub fn new(version: &str, commit: &str) -> Result<Self, prometheus::Error> {
        let registry = Registry::new();
        let requests = counters(&registry, &names::REQUESTS)?;
        let of = |status: &str| requests.with_label_values(&[status]);
        let latency = HistogramOpts::new(names::LATENCY.name, names::LATENCY.help).buckets(LATENCY_BUCKETS.to_vec());
        let build =
            IntGauge::with_opts(opts(&names::BUILD).const_label("version", version).const_label("commit", commit))?;
        build.set(1);
        register(&registry, build)?;
        #[cfg(target_os = "linux")]
        registry.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        let loads = counters(&registry, &names::RELOADS)?;
        let degraded = counters(&registry, &names::DEGRADED)?;
        let shed = counters(&registry, &names::SHED)?;
        // A series that begins with its first event would hide that event.
        ["taken", "refused"].iter().for_each(|outcome| drop(loads.with_label_values(&[outcome])));
        SHED_REASONS.iter().for_each(|reason| drop(shed.with_label_values(&[reason])));
        Ok(Self {
            errors: of("error"),
            counted: Counted {
                requests: [of("allowed"), of("blocked")],
                latency: register(&registry, Histogram::with_opts(latency)?)?,
                degraded: degraded.with_label_values(&["store"]),
                checks: counters(&registry, &names::CHECKS)?,
                decisions: counters(&registry, &names::DECISIONS)?,
            },
            tallies: Mutex::default(),
            shed,
            keys: register(&registry, IntGauge::with_opts(opts(&names::KEYS))?)?,
            waiting: register(&registry, IntGauge::with_opts(opts(&names::WAITING))?)?,
            tasks: register(&registry, IntGauge::with_opts(opts(&names::TASKS))?)?,
            batches: register(&registry, IntCounter::with_opts(opts(&names::BATCHES))?)?,
            items: register(&registry, IntCounter::with_opts(opts(&names::ITEMS))?)?,
            failed_batches: register(&registry, IntCounter::with_opts(opts(&names::FAILED_BATCHES))?)?,
            failed_items: register(&registry, IntCounter::with_opts(opts(&names::FAILED_ITEMS))?)?,
            connections: register(&registry, IntGaugeVec::new(opts(&names::CONNECTIONS), names::CONNECTIONS.labels)?)?,
            closed: counters(&registry, &names::CLOSED)?,
            redis_errors: register(&registry, IntCounter::with_opts(opts(&names::REDIS_ERRORS))?)?,
            holders: register(&registry, IntGauge::with_opts(opts(&names::HOLDERS))?)?,
            store_ok: register(&registry, IntGauge::with_opts(opts(&names::STORE_REACHED))?)?,
            advice: register(&registry, IntGaugeVec::new(opts(&names::ADVICE), names::ADVICE.labels)?)?,
            restarts: register(&registry, IntCounter::with_opts(opts(&names::RESTARTS))?)?,
            invariants: counters(&registry, &names::INVARIANTS)?,
            revision: register(&registry, IntGauge::with_opts(opts(&names::REVISION))?)?,
            loads,
            scrape: Mutex::new(()),
            registry,
        })
    }

    /// The tally of one core. [`Metrics::render`] shows the sum of all.
    pub fn tally(&self) -> Arc<Tally> {
        let tally = Arc::new(Tally::new(self.counted.clone()));
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).push(Arc::clone(&tally));
        tally
    }

    /// Counts a check that was answered with an error. `shed` is the reason if the node shed load.
    pub fn failed(&self, shed: Option<&'static str>) {
        self.errors.inc();
        self.counted.checks.with_label_values(&["other", "error"]).inc();
        if let Some(reason) = shed {
            self.shed.with_label_values(&[reason]).inc();
        }
    }

    /// The counters of one listener's connections.
    pub fn connections(&self, listener: &'static str) -> Connections {
        Connections::new(listener, &self.connections, &self.closed)
    }

    /// Counts a connection to Redis that failed or was lost.
    pub fn redis_connection_error(&self) {
        self.redis_errors.inc();
    }

    /// Records that a setting of the store weakens the promises, or does not.
    pub fn store_advice(&self, advice: &'static str, weakens: bool) {
        self.advice.with_label_values(&[advice]).set(weakens.into());
    }

    /// Counts a rule book that was read. `taken`: it is in force now.
    pub fn rules_read(&self, taken: bool) {
        self.loads.with_label_values(&[if taken { "taken" } else { "refused" }]).inc();
    }

    /// Removes the series of limits that an edit removed, so that edits do not accumulate series.
    pub fn rules_changed(&self, diff: &Diff) {
        for (domain, limit) in diff.removed.iter().filter_map(|name| name.rsplit_once('/')) {
            for outcome in OUTCOMES {
                // The series of a limit that never decided does not exist.
                let _ = self.counted.decisions.remove_label_values(&[domain, limit, outcome]);
            }
        }
    }

    /// Renders every metric in the text format of Prometheus.
    ///
    /// # Errors
    /// When the encoder rejects a metric.
    pub fn render(&self, figures: &Figures) -> Result<String, prometheus::Error> {
        let _one = self.scrape.lock().unwrap_or_else(PoisonError::into_inner);
        self.tallies.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|tally| tally.flush());
        let gauge = |gauge: &IntGauge, value: u64| gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        gauge(&self.keys, figures.keys);
        gauge(&self.waiting, figures.waiting);
        gauge(&self.tasks, figures.tasks);
        gauge(&self.revision, figures.revision.0);
        gauge(&self.holders, figures.holders);
        gauge(&self.store_ok, figures.store_ok.into());
        let raise = |counter: &IntCounter, to: u64| counter.inc_by(to.saturating_sub(counter.get()));
        raise(&self.batches, figures.batches);
        raise(&self.items, figures.items);
        raise(&self.failed_batches, figures.failed_batches);
        raise(&self.failed_items, figures.failed_items);
        raise(&self.restarts, figures.restarts);
        for invariant in Invariant::ALL {
            raise(&self.invariants.with_label_values(&[invariant.id()]), invariant::broken(invariant));
        }
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

fn opts(name: &Name) -> Opts {
    Opts::new(name.name, name.help)
}

fn counters(registry: &Registry, name: &Name) -> Result<IntCounterVec, prometheus::Error> {
    register(registry, IntCounterVec::new(opts(name), name.labels)?)
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, metric: C) -> Result<C, prometheus::Error> {
    registry.register(Box::new(metric.clone()))?;
    Ok(metric)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_shown_is_on_the_closed_list() {
        let metrics = Metrics::new("1", "abc").unwrap();
        metrics.failed(Some("keys"));
        metrics.rules_read(false);
        let text = metrics.render(&Figures { batches: 5, ..Figures::default() }).unwrap();
        let text = text + &metrics.render(&Figures { batches: 7, ..Figures::default() }).unwrap();
        assert!(text.contains("tidegate_store_batches_total 5") && text.contains("tidegate_store_batches_total 7"));
        for line in text.lines().filter(|l| l.starts_with("# TYPE ")) {
            let name = line.split(' ').nth(2).unwrap();
            assert!(name.starts_with("process_") || names::ALL.iter().any(|n| n.name == name), "{name}");
        }
    }
}
