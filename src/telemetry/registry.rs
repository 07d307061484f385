//! The registry of a node's metrics. Each part of a node has a bundle of metrics that it made from the registry.

#[cfg(feature = "cluster")]
use prometheus::GaugeVec;
use prometheus::core::Collector;
use prometheus::{
    Encoder, Error, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};

use super::names::{self, Name};

/// Makes metrics of [`names::ALL`] and renders them. A clone is the same registry.
#[derive(Clone)]
pub struct MetricsRegistry(Registry);

impl MetricsRegistry {
    /// Creates a registry with the metrics of the process. `version` and `commit` are those of this program.
    ///
    /// # Errors
    /// Returns an error if two metrics have one name.
    pub fn new(version: &str, commit: &str) -> Result<Self, Error> {
        let registry = Self(Registry::new());
        let build = opts(&names::BUILD).const_label("version", version).const_label("commit", commit);
        registry.register(IntGauge::with_opts(build)?)?.set(1);
        #[cfg(target_os = "linux")]
        registry.0.register(Box::new(prometheus::process_collector::ProcessCollector::for_self()))?;
        Ok(registry)
    }

    /// Makes a counter without labels.
    ///
    /// # Errors
    /// Returns an error if the registry has a metric of this name, as do the other functions that make a metric.
    pub fn counter(&self, name: &Name) -> Result<IntCounter, Error> {
        self.register(IntCounter::with_opts(opts(name))?)
    }

    /// Makes a counter with the labels of `name`.
    ///
    /// # Errors
    /// See [`Self::counter`].
    pub fn counters(&self, name: &Name) -> Result<IntCounterVec, Error> {
        self.register(IntCounterVec::new(opts(name), name.labels)?)
    }

    /// Makes a gauge without labels.
    ///
    /// # Errors
    /// See [`Self::counter`].
    pub fn gauge(&self, name: &Name) -> Result<IntGauge, Error> {
        self.register(IntGauge::with_opts(opts(name))?)
    }

    /// Makes a gauge with the labels of `name`.
    ///
    /// # Errors
    /// See [`Self::counter`].
    pub fn gauges(&self, name: &Name) -> Result<IntGaugeVec, Error> {
        self.register(IntGaugeVec::new(opts(name), name.labels)?)
    }

    /// Makes a gauge of fractions with the labels of `name`.
    ///
    /// # Errors
    /// See [`Self::counter`].
    #[cfg(feature = "cluster")]
    pub fn float_gauges(&self, name: &Name) -> Result<GaugeVec, Error> {
        self.register(GaugeVec::new(opts(name), name.labels)?)
    }

    /// Makes a histogram whose buckets have these upper bounds.
    ///
    /// # Errors
    /// See [`Self::counter`].
    pub fn histogram(&self, name: &Name, buckets: &[f64]) -> Result<Histogram, Error> {
        let options = HistogramOpts::new(name.name, name.help).buckets(buckets.to_vec());
        self.register(Histogram::with_opts(options)?)
    }

    /// Makes a histogram with the labels of `name`, whose buckets have these upper bounds.
    ///
    /// # Errors
    /// See [`Self::counter`].
    pub fn histograms(&self, name: &Name, buckets: &[f64]) -> Result<HistogramVec, Error> {
        let options = HistogramOpts::new(name.name, name.help).buckets(buckets.to_vec());
        self.register(HistogramVec::new(options, name.labels)?)
    }

    /// Renders every metric in the text format of Prometheus.
    ///
    /// # Errors
    /// Returns an error if the encoder rejects a metric.
    pub fn render(&self) -> Result<String, Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.0.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn register<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C, Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

fn opts(name: &Name) -> Opts {
    Opts::new(name.name, name.help)
}
