//! What a node counts of its talk with other regions.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use limiter::gossip::OutboxStats;
use prometheus::{Error, GaugeVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::rights_metrics::RightsMetrics;
use crate::telemetry::names;
use crate::telemetry::registry::MetricsRegistry;

/// Why a message of another region is rejected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rejected {
    Version,
    Cluster,
    Region,
    Keys,
    Certificate,
    Unreadable,
    Busy,
}

impl Rejected {
    const ALL: [Self; 7] =
        [Self::Version, Self::Cluster, Self::Region, Self::Keys, Self::Certificate, Self::Unreadable, Self::Busy];

    const fn label(self) -> &'static str {
        match self {
            Self::Version => "version",
            Self::Cluster => "cluster",
            Self::Region => "region",
            Self::Keys => "keys",
            Self::Certificate => "certificate",
            Self::Unreadable => "unreadable",
            Self::Busy => "busy",
        }
    }
}

impl fmt::Display for Rejected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Version => "the sender speaks an incompatible version of the protocol",
            Self::Cluster => "the sender belongs to another cluster",
            Self::Region => "this node does not know the region of the sender as another region",
            Self::Keys => "store.hash_keys differs between the regions",
            Self::Certificate => "the certificate of the sender does not name it",
            Self::Unreadable => "the reports cannot be read",
            Self::Busy => "this node has too many messages to import",
        })
    }
}

/// The metrics of the talk with other regions.
#[derive(Clone)]
pub struct RegionsMetrics {
    messages: IntCounterVec,
    bytes: IntCounterVec,
    reports: IntCounterVec,
    rejected: IntCounterVec,
    keys: IntGauge,
    dropped: IntCounter,
    partitioned: IntGaugeVec,
    age: GaugeVec,
    behind: IntGaugeVec,
    links: Arc<Mutex<BTreeMap<String, bool>>>,
    pub rights: RightsMetrics,
}

impl RegionsMetrics {
    /// # Errors
    /// Returns an error if the registry has these metrics already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        let (messages, bytes, reports) = (
            registry.counters(&names::GOSSIP_MESSAGES)?,
            registry.counters(&names::GOSSIP_BYTES)?,
            registry.counters(&names::GOSSIP_REPORTS)?,
        );
        for outcome in ["heard", "failed"] {
            messages.with_label_values(&[outcome]);
        }
        for direction in ["sent", "received"] {
            bytes.with_label_values(&[direction]);
            reports.with_label_values(&[direction]);
        }
        reports.with_label_values(&["invalid"]);
        let rejected = registry.counters(&names::GOSSIP_REJECTED)?;
        for reason in Rejected::ALL {
            rejected.with_label_values(&[reason.label()]);
        }
        Ok(Self {
            messages,
            bytes,
            reports,
            rejected,
            keys: registry.gauge(&names::GOSSIP_KEYS)?,
            dropped: registry.counter(&names::GOSSIP_DROPPED)?,
            partitioned: registry.gauges(&names::REGION_PARTITIONED)?,
            age: registry.float_gauges(&names::REGION_HEARD_AGE)?,
            behind: registry.gauges(&names::REGION_BEHIND)?,
            links: Arc::default(),
            rights: RightsMetrics::new(registry)?,
        })
    }

    /// A message leaves.
    pub fn sent(&self, bytes: usize, reports: usize) {
        self.bytes.with_label_values(&["sent"]).inc_by(bytes as u64);
        self.reports.with_label_values(&["sent"]).inc_by(reports as u64);
    }

    /// A message was acknowledged, or not.
    pub fn ended(&self, heard: bool) {
        self.messages.with_label_values(&[if heard { "heard" } else { "failed" }]).inc();
    }

    /// A message of another region arrived.
    pub fn received(&self, bytes: usize) {
        self.bytes.with_label_values(&["received"]).inc_by(bytes as u64);
    }

    /// Reports of another region are imported.
    pub fn imported(&self, reports: usize) {
        self.reports.with_label_values(&["received"]).inc_by(reports as u64);
    }

    /// This many reports were rejected so far.
    pub fn rejected(&self, total: u64) {
        let invalid = self.reports.with_label_values(&["invalid"]);
        invalid.inc_by(total.saturating_sub(invalid.get()));
    }

    /// A message of another region is rejected.
    pub fn rejected_message(&self, reason: Rejected) {
        self.rejected.with_label_values(&[reason.label()]).inc();
    }

    /// The numbers of the outbox.
    pub fn set_outbox(&self, stats: OutboxStats) {
        self.keys.set(i64::try_from(stats.keys).unwrap_or(i64::MAX));
        self.dropped.inc_by(stats.dropped.saturating_sub(self.dropped.get()));
    }

    /// The state of the talk to one region. Returns true if the region became partitioned, or is no more.
    pub fn set_link(&self, region: &str, partitioned: bool, heard_us_ago: u64, behind: usize) -> bool {
        self.partitioned.with_label_values(&[region]).set(partitioned.into());
        #[expect(clippy::cast_precision_loss, reason = "a metric")]
        self.age.with_label_values(&[region]).set(heard_us_ago as f64 / 1e6);
        self.behind.with_label_values(&[region]).set(i64::try_from(behind).unwrap_or(i64::MAX));
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.insert(region.to_owned(), partitioned).unwrap_or(false) != partitioned
    }

    /// Forgets regions that are no more.
    pub fn set_regions(&self, regions: &[String]) {
        let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|region, _| {
            let stays = regions.contains(region);
            if !stays {
                let _ = self.partitioned.remove_label_values(&[region]);
                let _ = self.age.remove_label_values(&[region]);
                let _ = self.behind.remove_label_values(&[region]);
                self.rights.forget(region);
            }
            stays
        });
    }
}
