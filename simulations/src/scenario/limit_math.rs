//! What a limit allows, for how long a charge counts, and its description.

use limiter::rules::{
    Algorithm, Consistency, DEFAULT_CELLS, GlobalStrategy, Limit, Mode, OnPartition, OnStoreFailure, Period, Quota,
    Scope,
};

/// The length of a window that no simulation sees end, in milliseconds.
pub const UNENDING_MS: u64 = 30 * 86_400_000;

/// Returns the time in microseconds after which a charge no longer counts.
pub fn horizon_us(limit: &Limit) -> u64 {
    let Period::Window { ms } = limit.period else { return u64::MAX };
    let ms = match limit.algorithm {
        Algorithm::FixedWindow => ms,
        Algorithm::SlidingWindow => 2 * ms,
        Algorithm::RollingWindow => {
            let cells = u64::from(limit.cells.unwrap_or(DEFAULT_CELLS));
            (cells + 1) * ms.div_ceil(cells)
        }
        Algorithm::TokenBucket => match limit.limit {
            Quota::Hits(hits) => limit.burst.unwrap_or(hits) * ms / hits.max(1) + 1,
            Quota::Unlimited => 0,
        },
    };
    ms.saturating_mul(1000)
}

/// Returns the largest number of hits that a limit grants at once.
pub const fn capacity(limit: &Limit) -> u64 {
    match (limit.limit, limit.burst) {
        (Quota::Hits(1..), Some(burst)) => burst,
        _ => quota(limit),
    }
}

/// Returns the number of hits that a limit grants in its period.
pub const fn quota(limit: &Limit) -> u64 {
    match limit.limit {
        Quota::Hits(hits) => hits,
        Quota::Unlimited => u64::MAX,
    }
}

/// Returns the number of hits that an answer states as the limit: a bucket that holds more than its limit states its
/// burst. Returns `None` for `unlimited`.
pub fn stated_limit(limit: &Limit) -> Option<u64> {
    (limit.limit != Quota::Unlimited).then(|| quota(limit).max(capacity(limit)))
}

/// Returns what a region does while another one does not hear it. Returns `None` if regions do not tell each other of
/// the limit's counters.
pub const fn on_partition(limit: &Limit) -> Option<OnPartition> {
    match limit.scope {
        Scope::Global(GlobalStrategy::Gossip { on_partition }) => Some(on_partition),
        _ => None,
    }
}

/// True if all regions count a limit together.
pub const fn is_global(limit: &Limit) -> bool {
    matches!(limit.scope, Scope::Global(_))
}

/// True if regions spend rights of a limit.
pub const fn is_escrow(limit: &Limit) -> bool {
    matches!(limit.scope, Scope::Global(GlobalStrategy::Escrow))
}

/// Describes a limit in one line.
pub fn describe(limit: &Limit) -> String {
    let hits = if let Quota::Hits(hits) = limit.limit { hits.to_string() } else { "unlimited".to_owned() };
    let window = match &limit.period {
        Period::Window { ms: UNENDING_MS } => "a month".to_owned(),
        Period::Window { ms } => format!("{ms} ms"),
        Period::Calendar { unit, time_zone } => format!("a {unit:?} of {time_zone}"),
    };
    let burst = limit.burst.map(|burst| format!(", burst {burst}")).unwrap_or_default();
    let consistency = if limit.consistency == Some(Consistency::Leased) { "leased" } else { "exact" };
    let whose = if limit.per.is_empty() { "for all users" } else { "per user" };
    let scope = match limit.scope {
        Scope::Region => String::new(),
        Scope::Global(strategy) => {
            let on_partition = on_partition(limit).map(|it| format!(", on_partition {}", it.as_str()));
            format!(", all regions: {}{}", strategy.as_str(), on_partition.unwrap_or_default())
        }
    };
    let failure = match limit.on_store_failure {
        OnStoreFailure::Local => "local",
        OnStoreFailure::Allow => "allow",
        OnStoreFailure::Deny => "deny",
    };
    let mode = match limit.mode {
        Mode::Enforce => "",
        Mode::Shadow => ", shadow",
        Mode::Off => ", off",
    };
    let (name, algorithm) = (&limit.name, limit.algorithm.as_str());
    let how = format!("{algorithm}{burst}, {consistency}, on_store_failure {failure}{scope}{mode}");
    format!("{name}: {hits} {whose} in {window} ({how})")
}
