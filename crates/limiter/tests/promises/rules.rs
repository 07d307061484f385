//! Rules for tests of the core. The tests of the node's cores use this file, too.

use std::sync::Arc;

use limiter::Revision;
use limiter::rules::{Algorithm, Consistency, Domain, Limit, Match, OnStoreFailure, Period, Quota, RuleBook, Rules};

/// Returns a limit per user that denies if the store fails.
pub fn limit(name: &str, algorithm: Algorithm, hits: u64, window_ms: u64, consistency: Consistency) -> Limit {
    let bucket = algorithm == Algorithm::TokenBucket;
    Limit {
        name: name.to_owned(),
        matches: Match::default(),
        per: vec!["user".into()],
        limit: Quota::Hits(hits),
        period: Period::Window { ms: window_ms },
        algorithm,
        cells: (algorithm == Algorithm::RollingWindow).then_some(4),
        burst: None,
        consistency: (!bucket).then_some(consistency),
        scope: Default::default(),
        overdraft: false,
        on_store_failure: OnStoreFailure::Deny,
        mode: Default::default(),
        overrides: Vec::new(),
        replaces: Vec::new(),
        response_headers: Default::default(),
    }
}

/// Returns the compiled rules of one domain `d` with these limits.
pub fn rule_book(limits: Vec<Limit>, revision: Revision) -> Arc<RuleBook> {
    let domain = Domain { domain: "d".to_owned(), limits, ..Domain::default() };
    Arc::new(RuleBook::compile(Arc::new(Rules { domains: vec![domain] }), revision).unwrap())
}
