//! Rules as a rule file, a Raft entry or an admin call says them: plain data without behaviour.
//!
//! [`super::validate`] checks their meaning, and [`super::rule_book`] compiles them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::per::Per;

/// The cells of a `rolling_window` that does not name them.
pub const DEFAULT_CELLS: u32 = 10;
/// The shortest window, in milliseconds.
pub const MIN_WINDOW_MS: u64 = 250;
/// The longest window, in milliseconds (400 days).
pub const MAX_WINDOW_MS: u64 = 400 * 86_400_000;
/// The longest time that a token bucket may take to fill, in milliseconds (10 years).
pub const MAX_REFILL_MS: u64 = 3_650 * 86_400_000;

/// A whole rule file: every domain with its limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rules {
    /// In file order; names are unique.
    pub domains: Vec<Domain>,
}

/// One domain: a name space of limits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Domain {
    pub domain: String,
    pub charge: Charge,
    pub default: Unmatched,
    pub identity: Identity,
    pub on_identity_failure: OnIdentityFailure,
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

/// The answer to a check that no limit of its domain matches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unmatched {
    #[default]
    Allow,
    Deny,
}

/// Where the identity of a check comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// From the attributes, as the caller gives them.
    #[default]
    Caller,
    /// From the API key in the attribute `api_key`, which is required.
    Key,
    /// From the API key if there is one, else from the caller.
    Either,
}

/// The answer to a check whose API key cannot be looked up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnIdentityFailure {
    #[default]
    Deny,
    Allow,
}

/// One limit of the rules.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Limit {
    pub name: String,
    pub matches: Match,
    /// The attributes whose values distinguish counters, in order.
    pub per: Vec<Per>,
    pub limit: Quota,
    pub period: Period,
    pub algorithm: Algorithm,
    /// Only for `rolling_window`. `None` means [`DEFAULT_CELLS`].
    pub cells: Option<u32>,
    /// Only for `token_bucket`. `None` means the limit.
    pub burst: Option<u64>,
    /// `None` means leased for a window. A token bucket is always exact.
    pub consistency: Option<Consistency>,
    pub scope: Scope,
    /// True if a check that does not fit is denied and charged all the same, for usage that is known afterwards.
    pub overdraft: bool,
    pub on_store_failure: OnStoreFailure,
    pub mode: Mode,
    pub overrides: Vec<Override>,
    pub replaces: Vec<String>,
    pub response_headers: BTreeMap<String, String>,
}

/// When a limit applies to a descriptor. An attribute is named by its key, and by its position if the key comes several
/// times: `generic_key#2`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Match {
    /// All conditions must hold.
    pub conditions: BTreeMap<String, Condition>,
    /// The descriptor has exactly these keys in this order. A key may come several times.
    pub exact_keys: Option<Vec<String>>,
    /// A CEL expression over `attributes`, `domain` and `hits`.
    pub when: Option<String>,
}

/// A condition on one attribute. If the attribute is absent, all but `Not` and `Present(false)` are false.
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
    /// A unit of the calendar in a time zone.
    Calendar { unit: CalendarUnit, time_zone: String },
}

/// A unit of the calendar. Weeks begin on Monday.
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
    /// The word for it in a rule file.
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
    /// The node pays checks from tokens that it took in advance.
    Leased,
}

/// Where a counter is shared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Each region counts by itself.
    #[default]
    Region,
    /// All regions count together.
    Global(GlobalStrategy),
}

/// How regions share a counter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GlobalStrategy {
    /// Regions tell each other what they counted. A region decides on its own count and the counts that it has heard.
    Gossip { on_partition: OnPartition },
    /// Regions spend rights that they hold, and move rights ahead of need.
    Escrow,
}

impl GlobalStrategy {
    /// The word for it in a rule file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gossip { .. } => "gossip",
            Self::Escrow => "escrow",
        }
    }
}

/// What a region does while another one does not hear it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnPartition {
    /// It goes on with the counts that it knows.
    Open,
    /// It admits its weighted part of what was left.
    #[default]
    Share,
    /// It denies.
    Deny,
}

impl OnPartition {
    /// The word for it in a rule file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Share => "share",
            Self::Deny => "deny",
        }
    }
}

/// What decides a check while the store does not answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OnStoreFailure {
    /// The holder admits its share of the limit.
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

/// What differs for some descriptors. The first override that matches applies.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Override {
    pub matches: Match,
    pub limit: Option<Quota>,
    pub burst: Option<u64>,
    pub mode: Option<Mode>,
    pub on_store_failure: Option<OnStoreFailure>,
    pub response_headers: Option<BTreeMap<String, String>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_a_rule_file_stand_for_strategies() {
        let gossip = GlobalStrategy::Gossip { on_partition: OnPartition::Share };
        assert_eq!([gossip, GlobalStrategy::Escrow].map(GlobalStrategy::as_str), ["gossip", "escrow"]);
        let all = [OnPartition::Open, OnPartition::Share, OnPartition::Deny];
        assert_eq!(all.map(OnPartition::as_str), ["open", "share", "deny"]);
    }
}
