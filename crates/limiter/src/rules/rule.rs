//! What a rule file, a Raft entry or an admin call says: plain data, no behaviour.
//!
//! The meaning is checked by [`super::validate`] and compiled by [`super::rule_book`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Cells of a `rolling_window` that names none.
pub const DEFAULT_CELLS: u32 = 10;
/// The shortest window, in milliseconds.
pub const MIN_WINDOW_MS: u64 = 250;
/// The longest window, in milliseconds (400 days).
pub const MAX_WINDOW_MS: u64 = 400 * 86_400_000;
/// Longest time, in milliseconds, that a token bucket may take to refill (10 years).
pub const MAX_REFILL_MS: u64 = 3_650 * 86_400_000;

/// A whole rule file: every domain with its limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// In file order; names are unique.
    pub domains: Vec<Domain>,
}

/// One domain: a name space of limits.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Domain {
    pub domain: String,
    pub charge: Charge,
    pub limits: Vec<Limit>,
}

/// How the descriptors of one check are charged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Charge {
    /// If one limit denies, no limit of the check is charged.
    #[default]
    AllOrNothing,
    /// Every descriptor is a check of its own.
    Each,
}

/// One line of a rule book.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    pub name: String,
    pub matches: Match,
    /// Attribute names whose values tell counters apart, in order.
    pub per: Vec<String>,
    pub limit: Quota,
    pub period: Period,
    pub algorithm: Algorithm,
    /// `rolling_window` only; `None` is [`DEFAULT_CELLS`].
    pub cells: Option<u32>,
    /// `token_bucket` only; `None` is the limit.
    pub burst: Option<u64>,
    /// `None` is leased for windows; a token bucket is always exact.
    pub consistency: Option<Consistency>,
    pub scope: Scope,
    pub on_store_failure: OnStoreFailure,
    pub mode: Mode,
    pub overrides: Vec<Override>,
    pub replaces: Vec<String>,
    pub response_headers: BTreeMap<String, String>,
}

/// When a limit applies to a descriptor.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Match {
    /// All must hold.
    pub conditions: BTreeMap<String, Condition>,
    /// The descriptor has exactly these keys in this order.
    pub exact_keys: Option<Vec<String>>,
    /// A CEL expression over `attributes`, `domain` and `hits`.
    pub when: Option<String>,
}

/// One condition on one attribute. All but `Not` and `Present(false)` are false when it is absent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    Equal(String),
    AnyOf(Vec<String>),
    Prefix(String),
    Suffix(String),
    Glob(String),
    Route(String),
    Cidr(Vec<String>),
    Regex(String),
    Present(bool),
    Not(Box<Condition>),
}

/// How many hits a limit grants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quota {
    /// At most this many, up to [`MAX_LIMIT`](crate::rules::MAX_LIMIT). 0 denies everything.
    Hits(u64),
    /// Counts and never denies.
    Unlimited,
}

/// The window of a limit.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Period {
    /// A length in milliseconds, aligned to the epoch.
    Window { ms: u64 },
    /// A calendar's unit in a time zone.
    Calendar { unit: CalendarUnit, time_zone: String },
}

/// Calendar units; weeks begin on Monday.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CalendarUnit {
    Hour,
    Day,
    Week,
    Month,
    Year,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Algorithm {
    #[default]
    SlidingWindow,
    RollingWindow,
    FixedWindow,
    TokenBucket,
}

impl Algorithm {
    /// The word of the rule file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::SlidingWindow => "sliding_window",
            Self::RollingWindow => "rolling_window",
            Self::FixedWindow => "fixed_window",
            Self::TokenBucket => "token_bucket",
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Consistency {
    /// Every check waits for the store.
    Exact,
    /// Checks are paid from tokens that the node took in advance.
    Leased,
}

/// Where a counter is shared. `Global` is invalid until cross-region counting exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    #[default]
    Region,
    Global,
}

/// What decides while the store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreFailure {
    /// This holder's share of the limit.
    #[default]
    Local,
    Allow,
    Deny,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    #[default]
    Enforce,
    /// Counts and reports, and never denies.
    Shadow,
    Off,
}

/// What differs for some descriptors; the first that matches wins.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Override {
    pub matches: Match,
    pub limit: Option<Quota>,
    pub burst: Option<u64>,
    pub mode: Option<Mode>,
    pub on_store_failure: Option<OnStoreFailure>,
    pub response_headers: Option<BTreeMap<String, String>>,
}
