//! Rules for the entry points, and a node that keeps its counters in memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use limiter::rules::RuleBook;
use limiter::{Check, DryRun, NodeTime, Revision, StoreTime, WallTime};
use tidegate::api::batches::BatchGate;
use tidegate::api::check_service::{CheckService, room_for_keys};
use tidegate::api::http::HttpState;
use tidegate::api::http::forward_auth::ForwardAuth;
use tidegate::api::http::forward_auth::notices::Notices;
use tidegate::api::http::forward_auth::trust::Trust;
use tidegate::api::request_id::RequestIds;
use tidegate::ports::{Answer, BoxFuture, Clock, Limiter, NodeStatus, Readiness, StoreHealth, Unavailable, Wait};
use tidegate::rulefile::decode;
use tidegate::server::meter::Budgets;
use tidegate::server::metrics::ConnectionMetrics;
use tidegate::telemetry::checks::CheckMetrics;
use tidegate::telemetry::registry::MetricsRegistry;

/// The time at which every run starts, in microseconds since the epoch. It is in the middle of many windows.
pub const START: StoreTime = StoreTime(1_700_000_123_456_789);
/// Rules of every kind, so that requests can match each kind.
pub const RULES: &str = include_str!("rules.yaml");

/// Returns the compiled [`RULES`].
pub fn book() -> Arc<RuleBook> {
    static BOOK: LazyLock<Arc<RuleBook>> =
        LazyLock::new(|| Arc::new(decode::compile("rules.yaml", RULES, Revision(1)).expect("valid rules")));
    Arc::clone(&BOOK)
}

/// A limiter that decides at once with a store of its own. Its time advances by one millisecond for each check.
pub struct DryRunLimiter {
    dry_run: Mutex<DryRun>,
    /// The time since [`START`], in microseconds.
    elapsed: AtomicU64,
}

impl DryRunLimiter {
    pub fn new() -> Self {
        Self { dry_run: Mutex::new(DryRun::new(book(), START)), elapsed: AtomicU64::new(0) }
    }
}

impl Limiter for DryRunLimiter {
    fn deadline(&self) -> Duration {
        Duration::ZERO
    }

    fn check(&self, check: &Check<'_>, _: NodeTime, _: Wait) -> Answer {
        let elapsed = self.elapsed.fetch_add(1000, Ordering::Relaxed);
        let decision = self.dry_run.lock().unwrap_or_else(PoisonError::into_inner).check(check, elapsed);
        Answer::Now(decision.map_err(Unavailable::Overloaded))
    }

    fn check_all(&self, checks: &[Check<'_>], now: NodeTime, wait: Wait) -> Vec<Answer> {
        checks.iter().map(|check| self.check(check, now, wait)).collect()
    }
}

/// A clock that does not advance.
pub struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> NodeTime {
        NodeTime(0)
    }

    fn wall(&self) -> WallTime {
        WallTime(START.0)
    }
}

/// A node that is always ready.
pub struct ReadyNode;

impl NodeStatus for ReadyNode {
    fn readiness(&self) -> Readiness {
        Readiness {
            ready: true,
            revision: Revision(1),
            rules_hash: None,
            rejected_rules: None,
            store: StoreHealth::Ok,
            cluster: None,
            advice: Vec::new(),
            draining: false,
        }
    }

    fn metrics(&self) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(std::future::ready(Ok(String::new())))
    }
}

pub fn check_metrics() -> Arc<CheckMetrics> {
    let registry = MetricsRegistry::new("0", "fuzz").expect("a registry");
    Arc::new(CheckMetrics::new(&registry).expect("metrics"))
}

/// Budgets of `most` bytes each.
pub fn budgets(most: usize) -> Budgets {
    let registry = MetricsRegistry::new("0", "fuzz").expect("a registry");
    Budgets::new(
        most,
        check_metrics(),
        ConnectionMetrics::new(&registry).expect("metrics").listener("http").cut_answers(),
    )
}

pub fn notices() -> Notices {
    Notices::new(&MetricsRegistry::new("0", "fuzz").expect("a registry")).expect("metrics")
}

pub fn service() -> Arc<CheckService> {
    let metrics = check_metrics();
    Arc::new(CheckService {
        limiter: Arc::new(DryRunLimiter::new()),
        clock: Arc::new(FixedClock),
        tally: metrics.tally(),
        metrics,
        ids: RequestIds::new(1),
        identities: Arc::new(tidegate::ports::identity::NoIdentities),
        batches: BatchGate::new(),
        waiting_for_keys: room_for_keys(),
    })
}

pub fn http_state(trust: Trust) -> HttpState {
    let forward_auth = Arc::new(ForwardAuth { trust, notices: Arc::new(notices()) });
    HttpState { service: service(), node: Arc::new(ReadyNode), forward_auth, tokens: None, origins: Arc::default() }
}
