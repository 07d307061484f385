//! Rows and transactions for tests.

use limiter::Revision;
use limiter::rules::{Algorithm, Limit, Match, Period, Quota};
use plane::{Change, CommitId, KeyHash, KeyRow, Mark, Transaction, UserRow};

pub fn mark(revision: u64) -> Mark {
    Mark { revision: Revision(revision), id: CommitId(u128::from(revision)) }
}

pub fn transaction(revision: u64, changes: Vec<Change>) -> Transaction {
    Transaction::new(mark(revision), changes)
}

/// A limit of this many hits a minute.
pub fn limit(name: &str, hits: u64) -> Limit {
    Limit {
        name: name.to_owned(),
        matches: Match::default(),
        per: vec!["user".into()],
        limit: Quota::Hits(hits),
        period: Period::Window { ms: 60_000 },
        algorithm: Algorithm::SlidingWindow,
        cells: None,
        burst: None,
        consistency: None,
        scope: Default::default(),
        overdraft: false,
        on_store_failure: Default::default(),
        mode: Default::default(),
        overrides: Vec::new(),
        replaces: Vec::new(),
        response_headers: Default::default(),
    }
}

pub fn put(domain: &str, position: i32, limit: Limit) -> Change {
    Change::PutLimit { domain: domain.to_owned(), position, limit: Box::new(limit) }
}

pub fn hash(number: u8) -> KeyHash {
    KeyHash([number; 32])
}

/// A valid key of the user `u1`.
pub fn key(number: u8) -> KeyRow {
    KeyRow {
        hash: hash(number),
        key_id: format!("k{number}"),
        user: "u1".to_owned(),
        tier: None,
        expires_at_ms: None,
        revoked_at_ms: None,
    }
}

pub fn user(tier: Option<&str>) -> UserRow {
    UserRow { user: "u1".to_owned(), tier: tier.map(ToOwned::to_owned) }
}
