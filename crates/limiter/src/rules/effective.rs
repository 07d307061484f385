//! Effective limits: a limit of the rules, or one of its overrides, compiled for a counter.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::tz::TimeZone;

use super::calendar;
use super::key_name::{digest, prefix, push_values};
use super::rule::{
    Algorithm, CalendarUnit, Consistency, DEFAULT_CELLS, GlobalStrategy, Limit, Mode, OnPartition, OnStoreFailure,
    Override, Period, Quota, Scope,
};
use crate::counter::{Grid, MAX_COUNT, Rate};
use crate::revision::Revision;
use crate::time::StoreTime;

/// The limit of one counter under one revision of the rules.
#[derive(Debug)]
pub struct EffectiveLimit {
    pub domain: Arc<str>,
    pub name: Arc<str>,
    pub algorithm: Algorithm,
    pub shape: Shape,
    /// Hits granted per window. [`UNLIMITED`] never denies.
    pub limit: u64,
    pub rate: Rate,
    /// The nominal length of the window. A month counts 30 days and a year 365.
    pub window_ms: u64,
    pub leased: bool,
    /// A check that does not fit is denied and charged all the same.
    pub overdraft: bool,
    pub mode: Mode,
    pub on_store_failure: OnStoreFailure,
    pub scope: Scope,
    pub response_headers: BTreeMap<String, String>,
    pub revision: Revision,
    /// The limit came with a request, not from the rules.
    pub from_request: bool,
    /// The first part of the name of every counter.
    pub key_prefix: Box<[u8]>,
}

/// What the tokens of a counter are granted under. Tokens and denials of other terms do not count: rules may have
/// changed, or a request brought a limit of its own for the same counter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms {
    pub revision: Revision,
    pub limit: u64,
}

/// The limit of a counter that never denies.
pub const UNLIMITED: u64 = MAX_COUNT;

/// How a counter counts: on a grid, by a calendar, or as a bucket.
#[derive(Clone, Debug)]
pub enum Shape {
    Grid(Grid),
    Calendar { unit: CalendarUnit, zone: TimeZone },
    Bucket,
}

impl EffectiveLimit {
    /// Compiles `limit`, with the `change` of an override if one applies.
    pub fn new(domain: &Arc<str>, limit: &Limit, change: Option<&Override>, revision: Revision) -> Self {
        let quota = change.and_then(|c| c.limit).unwrap_or(limit.limit);
        let hits = match quota {
            Quota::Hits(hits) => hits,
            Quota::Unlimited => UNLIMITED,
        };
        // The burst of an override that names a limit and no burst is its limit, as for every limit.
        let inherited = if change.is_some_and(|c| c.limit.is_some()) { None } else { limit.burst };
        let burst = change.and_then(|c| c.burst).or(inherited).unwrap_or(hits);
        let window_ms = nominal_ms(&limit.period);
        let headers = change.and_then(|c| c.response_headers.as_ref()).unwrap_or(&limit.response_headers);
        Self {
            domain: Arc::clone(domain),
            name: limit.name.as_str().into(),
            algorithm: limit.algorithm,
            shape: shape(limit),
            limit: hits,
            rate: if hits == UNLIMITED { Rate::default() } else { Rate::new(hits, window_ms, burst) },
            window_ms,
            leased: leased(limit, hits),
            overdraft: limit.overdraft,
            mode: change.and_then(|c| c.mode).unwrap_or(limit.mode),
            on_store_failure: change.and_then(|c| c.on_store_failure).unwrap_or(limit.on_store_failure),
            scope: limit.scope,
            response_headers: headers.clone(),
            revision,
            from_request: false,
            key_prefix: prefix(&counter_digest(domain, limit, change)).into(),
        }
    }

    pub const fn terms(&self) -> Terms {
        Terms { revision: self.revision, limit: self.limit }
    }

    pub const fn is_bucket(&self) -> bool {
        matches!(self.shape, Shape::Bucket)
    }

    pub const fn is_unlimited(&self) -> bool {
        self.limit == UNLIMITED
    }

    /// What the region does while another one does not hear it. `None` if regions do not tell each other this counter.
    pub const fn on_partition(&self) -> Option<OnPartition> {
        match self.scope {
            Scope::Global(GlobalStrategy::Gossip { on_partition }) if !self.is_unlimited() => Some(on_partition),
            _ => None,
        }
    }

    /// True if regions spend rights that they hold.
    pub fn is_escrow(&self) -> bool {
        self.scope == Scope::Global(GlobalStrategy::Escrow) && !self.is_unlimited()
    }

    /// True if it needs no counter to decide: it denies everything, or it is an unlimited bucket.
    pub const fn is_static(&self) -> bool {
        self.limit == 0 || (self.is_unlimited() && self.is_bucket())
    }

    /// The most hits that are ever granted at once.
    pub const fn max_grant(&self) -> u64 {
        if self.is_bucket() && !self.is_unlimited() { self.rate.burst } else { self.limit }
    }

    /// The grid at `at`. `None` for a bucket, and outside the years of a calendar.
    pub fn grid(&self, at: StoreTime) -> Option<Grid> {
        match &self.shape {
            Shape::Grid(grid) => Some(*grid),
            Shape::Calendar { unit, zone } => {
                calendar::bounds(*unit, zone, at.millis()).map(|bounds| Grid::Calendar { bounds })
            }
            Shape::Bucket => None,
        }
    }

    /// Writes the name of the counter with these values into `out`. If `hash` is true, only a hash of them stands
    /// there.
    pub fn key<'v>(&self, values: impl Iterator<Item = &'v str> + Clone, hash: bool, out: &mut Vec<u8>) {
        out.clear();
        out.extend_from_slice(&self.key_prefix);
        push_values(out, values, hash);
    }
}

/// True if keys take tokens in advance. The store must see each hit of a small limit when it comes.
fn leased(limit: &Limit, hits: u64) -> bool {
    let exact = limit.algorithm == Algorithm::TokenBucket || limit.consistency == Some(Consistency::Exact);
    !exact && !matches!(shape(limit), Shape::Grid(grid) if grid.is_logged(hits))
}

fn shape(limit: &Limit) -> Shape {
    let ms = match &limit.period {
        Period::Window { ms } => *ms,
        Period::Calendar { unit, time_zone } => {
            let zone = calendar::zone(time_zone).unwrap_or(TimeZone::UTC);
            return Shape::Calendar { unit: *unit, zone };
        }
    };
    match limit.algorithm {
        Algorithm::FixedWindow => Shape::Grid(Grid::Fixed { width_ms: ms }),
        Algorithm::SlidingWindow => Shape::Grid(Grid::Sliding { width_ms: ms }),
        Algorithm::RollingWindow => {
            let cells = limit.cells.unwrap_or(DEFAULT_CELLS);
            Shape::Grid(Grid::Rolling { window_ms: ms, cells })
        }
        Algorithm::TokenBucket => Shape::Bucket,
    }
}

const fn nominal_ms(period: &Period) -> u64 {
    const HOUR: u64 = 3_600_000;
    match period {
        Period::Window { ms } => *ms,
        Period::Calendar { unit, .. } => match unit {
            CalendarUnit::Hour => HOUR,
            CalendarUnit::Day => 24 * HOUR,
            CalendarUnit::Week => 7 * 24 * HOUR,
            CalendarUnit::Month => 30 * 24 * HOUR,
            CalendarUnit::Year => 365 * 24 * HOUR,
        },
    }
}

/// Identifies the counters of a limit: a digest of the domain, the name of the limit, and everything that begins a new
/// counter when it changes: window, algorithm, cells, `per`, the match of an override that has its own counter, and how
/// regions share it. The names of the counters begin with a part of it.
pub fn counter_digest(domain: &str, limit: &Limit, change: Option<&Override>) -> [u8; 32] {
    let per = serde_json::to_string(&limit.per).unwrap_or_default();
    let cells = limit.cells.unwrap_or(DEFAULT_CELLS).to_string();
    let cells = if limit.algorithm == Algorithm::RollingWindow { cells.as_str() } else { "" };
    let period = match &limit.period {
        Period::Window { ms } => ms.to_string(),
        Period::Calendar { unit, time_zone } => format!("{unit:?} {time_zone}"),
    };
    let apart = change.filter(|c| has_own_counter(c, limit));
    let apart = apart.map(|c| serde_json::to_string(&c.matches).unwrap_or_default()).unwrap_or_default();
    let parts = [domain, &limit.name, limit.algorithm.as_str(), &period, cells, &per, &apart];
    let shared = match limit.scope {
        Scope::Region => None,
        Scope::Global(strategy) => Some(strategy.as_str()),
    };
    digest(parts.into_iter().chain(shared))
}

/// True if an override has its own counter: its match tests more than what names the limit's counters, so it may apply
/// to only some of the descriptors that share one of them.
fn has_own_counter(change: &Override, limit: &Limit) -> bool {
    let Override { matches, .. } = change;
    let own = |(name, condition): (&String, _)| !limit.per.iter().any(|per| per.decides(name, condition));
    matches.when.is_some() || matches.exact_keys.is_some() || matches.conditions.iter().any(own)
}
