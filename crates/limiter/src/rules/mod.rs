//! Rules: what users write, whether it is valid, and the compiled book that finds the limits of a check.

mod calendar;
mod effective;
mod key_name;
mod matcher;
mod path;
mod rule;
mod rule_book;
mod rule_map;
mod validate;

pub use crate::counter::MAX_LIMIT;
pub use effective::{EffectiveLimit, Shape, Terms, UNLIMITED};
pub use path::{Path, Step};
pub use rule::{
    Algorithm, CalendarUnit, Charge, Condition, Consistency, DEFAULT_CELLS, Domain, Limit, MAX_WINDOW_MS,
    MIN_WINDOW_MS, Match, Mode, OnStoreFailure, Override, Period, Quota, Rules, Scope,
};
pub(crate) use rule_book::descriptor_limit;
pub use rule_book::{ApplicableLimit, ApplicableLimits, Diff, RuleBook};
pub use rule_map::RuleMap;
pub use validate::Problem;
