//! Draws the limits of a plan.

use std::collections::BTreeMap;

use super::kind::Scenario;
use super::limit_math::UNENDING_MS;
use super::limit_set::LimitSet;
use crate::rng::Rng;
use limiter::rules::{
    Algorithm, Condition, Consistency, GlobalStrategy, Limit, Match, Mode, OnPartition, OnStoreFailure, Period, Quota,
    Scope,
};

/// Draws the limits. `few_counters` says that many cores share few counters.
pub fn draw_limits(rng: &mut Rng, scenario: Scenario, few_counters: bool) -> Vec<Limit> {
    use Algorithm::{FixedWindow, RollingWindow, SlidingWindow, TokenBucket};
    let buckets = scenario == Scenario::Buckets;
    let hits = if few_counters {
        rng.pick(200, &[100, 1000])
    } else if scenario == Scenario::Suspended {
        rng.pick(100, &[200, 400, 1000])
    } else if buckets {
        rng.pick(20, &[40, 100])
    } else {
        rng.pick(5, &[1, 2, 3, 8, 12, 20, 40, 100])
    };
    let mut algorithm = rng.pick(SlidingWindow, &[FixedWindow, RollingWindow, TokenBucket]);
    if buckets {
        algorithm = TokenBucket;
    }
    if scenario == Scenario::Suspended {
        algorithm = rng.pick(FixedWindow, &[FixedWindow, RollingWindow]);
    }
    let mut limits = vec![draw_limit(rng, "brief", algorithm, hits, None)];
    if buckets || rng.chance(35) {
        let other = rng.pick(TokenBucket, &[FixedWindow, RollingWindow, SlidingWindow, TokenBucket]);
        algorithm = if buckets { TokenBucket } else { other };
        let more = rng.between(0, 20);
        let mut second = draw_limit(rng, "brief-too", algorithm, hits + more, None);
        if rng.chance(50) {
            second.per.clear();
        }
        limits.push(second);
    }
    let mut draw_unending = |name, few, many| {
        let algorithm = rng.pick(FixedWindow, &[SlidingWindow, RollingWindow]);
        let hits = rng.between(few, many) * if few_counters && name == "solo" { 10 } else { 1 };
        draw_limit(rng, name, algorithm, hits, Some(UNENDING_MS))
    };
    limits.push(draw_unending("pair-small", 2, 8));
    limits.push(Limit { per: Vec::new(), ..draw_unending("pair-shared", 10, 60) });
    limits.push(draw_unending("solo", 5, 60));
    let on_store_failure = match scenario {
        Scenario::Outage | Scenario::Buckets | Scenario::Crowded => OnStoreFailure::Local,
        Scenario::Suspended | Scenario::Replaced => OnStoreFailure::Deny,
        _ => rng.pick(OnStoreFailure::Deny, &[OnStoreFailure::Local, OnStoreFailure::Allow]),
    };
    if scenario == Scenario::Suspended {
        // Only a lease can end while its machine is suspended.
        limits
            .iter_mut()
            .filter(|limit| limit.consistency.is_some())
            .for_each(|limit| limit.consistency = Some(Consistency::Leased));
    }
    limits.iter_mut().for_each(|limit| limit.on_store_failure = on_store_failure);
    limits
}

/// Draws a limit that counts each user separately. The part of its name before `-` is the name of its limit set.
fn draw_limit(rng: &mut Rng, name: &str, algorithm: Algorithm, hits: u64, window_ms: Option<u64>) -> Limit {
    let bucket = algorithm == Algorithm::TokenBucket;
    let set = name.split('-').next().unwrap_or(name);
    let mut kinds = vec![set.to_owned()];
    if name == LimitSet::Short.name() {
        kinds.push(LimitSet::ShortOnly.name().to_owned());
    }
    let kind = ("kind".to_owned(), Condition::AnyOf(kinds));
    let ms = window_ms.unwrap_or_else(|| rng.pick(1000, &[500, 2000]));
    let consistency = rng.pick(Consistency::Leased, &[Consistency::Exact]);
    Limit {
        name: name.to_owned(),
        matches: Match { conditions: BTreeMap::from([kind]), ..Match::default() },
        per: vec!["user".into()],
        limit: Quota::Hits(hits),
        period: Period::Window { ms },
        algorithm,
        cells: (algorithm == Algorithm::RollingWindow).then(|| rng.pick(4, &[2, 10])),
        burst: bucket.then(|| rng.between(1, 2 * hits)),
        consistency: (!bucket).then_some(consistency),
        scope: Scope::Region,
        overdraft: false,
        on_store_failure: OnStoreFailure::Local,
        mode: Mode::Enforce,
        overrides: Vec::new(),
        replaces: Vec::new(),
        response_headers: BTreeMap::new(),
    }
}

/// Draws which limits all regions share.
pub fn draw_scopes(rng: &mut Rng, limits: &mut [Limit]) {
    use OnPartition::{Deny, Open, Share};
    for limit in limits.iter_mut().filter(|limit| limit.algorithm != Algorithm::TokenBucket) {
        let is_short = limit.name.starts_with(LimitSet::Short.name());
        let on_partition = rng.pick(Share, &[Share, Open, Deny]);
        if rng.chance(if is_short { 85 } else { 50 }) {
            limit.scope = Scope::Global(GlobalStrategy::Gossip { on_partition });
        }
    }
}

/// Draws the one limit of short windows of [`Scenario::Rates`].
pub fn draw_shared_limit(rng: &mut Rng, limits: &mut Vec<Limit>) {
    limits.retain(|limit| !limit.name.starts_with(LimitSet::Short.name()));
    let hits = rng.pick(30, &[100, 300]);
    let mut limit = draw_limit(rng, LimitSet::Short.name(), Algorithm::FixedWindow, hits, None);
    limit.scope = Scope::Global(GlobalStrategy::Gossip { on_partition: OnPartition::Share });
    limits.insert(0, limit);
}

/// Draws the limits under `strategy: escrow`: those with short windows. Their windows do not overlap.
pub fn draw_escrow(rng: &mut Rng, scenario: Scenario, limits: &mut Vec<Limit>) {
    let is_short = |limit: &Limit| limit.name.starts_with(LimitSet::Short.name());
    if matches!(scenario, Scenario::Demand | Scenario::Handover) {
        limits.retain(|limit| !is_short(limit));
        let ms = rng.pick(4000, &[if scenario == Scenario::Demand { 8000 } else { 2000 }]);
        let hits = rng.pick(30, &[100, 300]);
        let limit = draw_limit(rng, LimitSet::Short.name(), Algorithm::FixedWindow, hits, Some(ms));
        limits.insert(0, limit);
    }
    for limit in limits.iter_mut().filter(|limit| is_short(limit)) {
        let ms = rng.pick(1000, &[2000]);
        if scenario == Scenario::Escrow {
            limit.period = Period::Window { ms };
        }
        (limit.algorithm, limit.cells, limit.burst) = (Algorithm::FixedWindow, None, None);
        limit.consistency.get_or_insert(Consistency::Exact);
        limit.scope = Scope::Global(GlobalStrategy::Escrow);
        if limit.on_store_failure == OnStoreFailure::Allow {
            limit.on_store_failure = OnStoreFailure::Local;
        }
    }
}

/// Draws anew what a region does during a partition, if regions share the limit.
pub fn edit_scope(rng: &mut Rng, limit: &mut Limit) {
    use OnPartition::{Deny, Open, Share};
    if let Scope::Global(GlobalStrategy::Gossip { on_partition }) = &mut limit.scope {
        *on_partition = rng.pick(*on_partition, &[Share, Open, Deny]);
    }
}

/// Draws new hits, and a new burst for a bucket.
pub fn edit_limit(rng: &mut Rng, limit: &mut Limit) {
    let hits = rng.pick(5, &[1, 3, 12, 40, 100]);
    limit.limit = Quota::Hits(hits);
    if limit.burst.is_some() {
        limit.burst = Some(rng.between(1, 2 * hits));
    }
}
