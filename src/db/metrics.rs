//! The metrics of the database.

use prometheus::{Error, HistogramTimer, HistogramVec};

use crate::telemetry::names;
use crate::telemetry::registry::MetricsRegistry;

/// The upper bounds of the buckets, in seconds.
const BUCKETS: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];

/// What is asked of the database. These are all values of the label `query`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Query {
    FindPrimary,
    Changes,
    ReadAll,
    ReportRefused,
    RestoreMissing,
    Maintain,
    Edit,
    Commit,
    Token,
    List,
    RulesAt,
    LookUp,
}

impl Query {
    const fn name(self) -> &'static str {
        match self {
            Self::FindPrimary => "find_primary",
            Self::Changes => "changes",
            Self::ReadAll => "read_all",
            Self::ReportRefused => "report_refused",
            Self::RestoreMissing => "restore_missing",
            Self::Maintain => "maintain",
            Self::Edit => "edit",
            Self::Commit => "commit",
            Self::Token => "token",
            Self::List => "list",
            Self::RulesAt => "rules_at",
            Self::LookUp => "look_up",
        }
    }
}

/// Measures how long PostgreSQL takes.
#[derive(Clone)]
pub struct DatabaseMetrics {
    durations: HistogramVec,
}

impl DatabaseMetrics {
    /// # Errors
    /// Returns an error if the registry has these metrics already.
    pub fn new(registry: &MetricsRegistry) -> Result<Self, Error> {
        Ok(Self { durations: registry.histograms(&names::DATABASE_QUERIES, &BUCKETS)? })
    }

    /// Starts to measure a query. The time is recorded when the timer is dropped.
    pub(super) fn start(&self, query: Query) -> HistogramTimer {
        self.durations.with_label_values(&[query.name()]).start_timer()
    }
}
