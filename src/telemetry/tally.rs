//! One core's tally of its decisions. Labels are looked up once per revision, and no cache line is shared with another
//! core until the metrics are read.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use prometheus::local::{LocalHistogram, LocalIntCounter};
use prometheus::{Histogram, IntCounter, IntCounterVec};

use super::names::OTHER;
use limiter::rules::EffectiveLimit;
use limiter::{Decision, Revision};

/// The shared counters of decisions.
#[derive(Clone)]
pub(super) struct Counted {
    /// Allowed and denied.
    pub requests: [IntCounter; 2],
    pub latency: Histogram,
    pub degraded: IntCounter,
    /// By domain and outcome.
    pub checks: IntCounterVec,
    /// By domain, limit and outcome.
    pub decisions: IntCounterVec,
    /// By domain.
    pub unmatched: IntCounterVec,
}

/// The tally of one core.
pub struct Tally {
    of: Counted,
    local: Mutex<Local>,
}

struct Local {
    requests: [LocalIntCounter; 2],
    latency: LocalHistogram,
    degraded: LocalIntCounter,
    /// The revision of the domains and limits below.
    revision: Revision,
    /// By the address of the domain's name. The name is held, so that no other has its address.
    domains: BTreeMap<usize, DomainTally>,
    /// By the address of the limit.
    limits: BTreeMap<usize, (Arc<EffectiveLimit>, [LocalIntCounter; 3])>,
}

struct DomainTally {
    _name: Option<Arc<str>>,
    /// Allowed and denied.
    checks: [LocalIntCounter; 2],
    unmatched: LocalIntCounter,
}

impl Tally {
    pub(super) fn new(of: Counted) -> Self {
        let local = Local {
            requests: [of.requests[0].local(), of.requests[1].local()],
            latency: of.latency.local(),
            degraded: of.degraded.local(),
            revision: Revision::NONE,
            domains: BTreeMap::new(),
            limits: BTreeMap::new(),
        };
        Self { of, local: Mutex::new(local) }
    }

    /// Counts a check that was decided after `micros` microseconds.
    pub fn decided(&self, decision: &Decision, micros: u64) {
        let mut local = self.local.lock().unwrap_or_else(PoisonError::into_inner);
        if local.revision != decision.revision {
            local.flush();
            (local.revision, local.domains, local.limits) = (decision.revision, BTreeMap::new(), BTreeMap::new());
        }
        #[expect(clippy::cast_precision_loss, reason = "a latency needs no 53 bits")]
        local.latency.observe(micros as f64 / 1e6);
        local.requests[usize::from(!decision.allowed)].inc();
        if decision.degraded {
            local.degraded.inc();
        }
        let domain = decision.domain.as_ref();
        let text = || domain.map_or(OTHER, |domain| domain);
        let address = domain.map_or(0, |domain| Arc::as_ptr(domain).addr());
        let tally = local.domains.entry(address).or_insert_with(|| {
            let of = |outcome| self.of.checks.with_label_values(&[text(), outcome]).local();
            let unmatched = self.of.unmatched.with_label_values(&[text()]).local();
            DomainTally { _name: domain.cloned(), checks: ["allowed", "refused"].map(of), unmatched }
        });
        tally.checks[usize::from(!decision.allowed)].inc();
        if decision.limits.is_empty() && decision.identity.is_none() && !decision.too_much_work {
            tally.unmatched.inc();
        }
        for limit in &decision.limits {
            let outcome = match (limit.denied, limit.shadow) {
                (false, _) => 0,
                (true, false) => 1,
                (true, true) => 2,
            };
            if limit.effective.from_request {
                // A limit from a request has no name in the rules.
                self.of.decisions.with_label_values(&[text(), OTHER, OUTCOMES[outcome]]).inc();
                continue;
            }
            let (_, counters) = local.limits.entry(Arc::as_ptr(&limit.effective).addr()).or_insert_with(|| {
                let of = |outcome| self.of.decisions.with_label_values(&[text(), &limit.effective.name, outcome]);
                (Arc::clone(&limit.effective), OUTCOMES.map(|outcome| of(outcome).local()))
            });
            counters[outcome].inc();
        }
    }

    /// Counts a check that was denied before any limit was asked, and before its domain was looked up.
    pub fn denied_without_limits(&self) {
        self.of.requests[1].inc();
        self.of.checks.with_label_values(&[OTHER, "refused"]).inc();
    }

    /// Adds the tally to the shared counters.
    pub(super) fn flush(&self) {
        self.local.lock().unwrap_or_else(PoisonError::into_inner).flush();
    }
}

/// The outcome of one limit.
const OUTCOMES: [&str; 3] = ["allowed", "refused", "shadow"];

impl Local {
    fn flush(&self) {
        self.latency.flush();
        self.requests.iter().for_each(LocalIntCounter::flush);
        self.degraded.flush();
        let tallies = self.domains.values();
        tallies.flat_map(|tally| tally.checks.iter().chain([&tally.unmatched])).for_each(LocalIntCounter::flush);
        self.limits.values().flat_map(|(_, counters)| counters).for_each(LocalIntCounter::flush);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::checks::CheckMetrics;
    use crate::telemetry::registry::MetricsRegistry;
    use limiter::LimitStatus;
    use limiter::rules::{Algorithm, Limit, Match, Mode, OnStoreFailure, Period, Quota, Scope};

    fn decision(revision: Revision, domain: &Arc<str>, allowed: bool) -> Decision {
        let domain = Some(Arc::clone(domain));
        Decision {
            allowed,
            degraded: false,
            partitioned: false,
            revision,
            domain,
            retry_after: None,
            identity: None,
            too_much_work: false,
            limits: Vec::new(),
        }
    }

    #[test]
    fn the_metrics_are_the_sum_of_all_cores_and_revisions() {
        let registry = MetricsRegistry::new("1", "abc").unwrap();
        let metrics = CheckMetrics::new(&registry).unwrap();
        let (first, second) = (metrics.tally(), metrics.tally());
        let api: Arc<str> = "api".into();
        first.decided(&decision(Revision(1), &api, true), 3);
        first.decided(&decision(Revision(2), &api, true), 3);
        first.decided(&decision(Revision(2), &"web".into(), true), 3);
        second.decided(&decision(Revision(1), &"api".into(), true), 3);
        second.decided(&decision(Revision(1), &api, false), 3);
        for _ in 0..2 {
            metrics.flush();
            let text = registry.render().unwrap();
            for line in [
                "tidegate_checks_total{domain=\"api\",outcome=\"allowed\"} 3",
                "tidegate_checks_total{domain=\"api\",outcome=\"refused\"} 1",
                "tidegate_checks_total{domain=\"web\",outcome=\"allowed\"} 1",
                "tidegate_unmatched_total{domain=\"api\"} 4",
                "tidegate_unmatched_total{domain=\"other\"} 0",
                "rate_limiter_requests_total{status=\"allowed\"} 4",
                "rate_limiter_latency_seconds_count 5",
            ] {
                assert!(text.contains(line), "{line} is missing in {text}");
            }
        }
    }

    #[test]
    fn each_limit_is_counted_as_allowed_refused_or_shadow() {
        let registry = MetricsRegistry::new("1", "abc").unwrap();
        let metrics = CheckMetrics::new(&registry).unwrap();
        let (tally, api): (_, Arc<str>) = (metrics.tally(), "api".into());
        let rule = Limit {
            name: "l".to_owned(),
            matches: Match::default(),
            per: Vec::new(),
            limit: Quota::Hits(5),
            period: Period::Window { ms: 1000 },
            algorithm: Algorithm::FixedWindow,
            cells: None,
            burst: None,
            consistency: None,
            scope: Scope::Region,
            overdraft: false,
            on_store_failure: OnStoreFailure::Local,
            mode: Mode::Enforce,
            overrides: Vec::new(),
            replaces: Vec::new(),
            response_headers: BTreeMap::new(),
        };
        let limit = |name: &str, mode| {
            let rule = Limit { name: name.to_owned(), mode, ..rule.clone() };
            Arc::new(EffectiveLimit::new(&api, &rule, None, Revision(1)))
        };
        let (loud, quiet) = (limit("loud", Mode::Enforce), limit("quiet", Mode::Shadow));
        let status = |effective: &Arc<EffectiveLimit>, denied| LimitStatus {
            effective: Arc::clone(effective),
            descriptor: 0,
            remaining: Some(0),
            reset: 0,
            denied,
            retry_after: None,
            shadow: effective.mode == Mode::Shadow,
        };
        for (loud_denies, quiet_denies) in [(false, false), (false, true), (false, true), (true, true)] {
            let limits = vec![status(&loud, loud_denies), status(&quiet, quiet_denies)];
            tally.decided(&Decision { limits, ..decision(Revision(1), &api, !loud_denies) }, 3);
        }
        metrics.flush();
        let text = registry.render().unwrap();
        for line in [
            "tidegate_decisions_total{domain=\"api\",limit=\"loud\",outcome=\"allowed\"} 3",
            "tidegate_decisions_total{domain=\"api\",limit=\"loud\",outcome=\"refused\"} 1",
            "tidegate_decisions_total{domain=\"api\",limit=\"loud\",outcome=\"shadow\"} 0",
            "tidegate_decisions_total{domain=\"api\",limit=\"quiet\",outcome=\"allowed\"} 1",
            "tidegate_decisions_total{domain=\"api\",limit=\"quiet\",outcome=\"refused\"} 0",
            "tidegate_decisions_total{domain=\"api\",limit=\"quiet\",outcome=\"shadow\"} 3",
            // A limit in mode shadow denies no check.
            "tidegate_checks_total{domain=\"api\",outcome=\"allowed\"} 3",
            "tidegate_checks_total{domain=\"api\",outcome=\"refused\"} 1",
            "tidegate_unmatched_total{domain=\"api\"} 0",
        ] {
            assert!(text.contains(line), "{line} is missing in {text}");
        }
    }
}
