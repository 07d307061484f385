//! Rules: what users write, whether it is valid, and the compiled book that finds the limits of a check.

mod attribute;
mod calendar;
mod counter_names;
mod counter_prefixes;
mod effective;
mod explain;
mod headers;
mod key_name;
mod matcher;
mod path;
mod per;
mod prefixes;
mod problem;
mod rule;
mod rule_book;
mod rule_map;
mod validate;
mod warnings;
mod work;

pub use crate::counter::MAX_LIMIT;
pub use attribute::Attribute;
pub use effective::{EffectiveLimit, Shape, Terms, UNLIMITED};
pub use explain::Unapplied;
pub use key_name::{limit_of, most_common_limit};
pub use path::{Path, Step};
pub use per::{Per, Prefixes};
pub use problem::Problem;
pub use rule::{
    Algorithm, CalendarUnit, Charge, Condition, Consistency, DEFAULT_CELLS, Domain, GlobalStrategy, Identity, Limit,
    MAX_WINDOW_MS, MIN_WINDOW_MS, Match, Mode, OnIdentityFailure, OnPartition, OnStoreFailure, Override, Period, Quota,
    Rules, Scope, Unmatched,
};
pub use rule_book::{ApplicableLimit, ApplicableLimits, Diff, DomainTerms, IdentityTerms, RuleBook};
pub use rule_map::RuleMap;
pub use warnings::{has_empty_shares, warnings};
pub use work::{APPLIED, MAX_BATCH_WORK, MAX_WORK};
