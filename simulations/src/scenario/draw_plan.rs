//! Draws a plan from a scenario and a seed. The order of the draws decides the history of every seed.

use std::sync::Arc;

use super::demand::Demand;
use super::draw_limits::{draw_escrow, draw_limits, draw_scopes, draw_shared_limit, edit_limit, edit_scope};
use super::gossip::{GossipSettings, draw_weights};
use super::kind::Scenario;
use super::limit_math::quota;
use super::limit_set::LimitSet;
use super::plan::{DOMAIN, Edit, Plan, Traffic};
use super::regions::Regions;
use crate::faults::Fault;
use crate::faults::draw::{self, DrawFault, RegionSize};
use crate::ids::{Instant, RegionIndex};
use crate::rng::{Rng, Stream};
use limiter::Revision;
use limiter::rules::{Domain, Limit, Period, Problem, RuleBook, Rules};

const MS: u64 = 1000;
/// The longest window of a limit under escrow that edits may change, in milliseconds.
const ESCROW_WINDOW_MS: u64 = 2000;
/// The windows of [`Scenario::Demand`].
const DEMAND_WINDOWS: u64 = 6;

/// What is special about a simulation.
struct Shape {
    scenario: Scenario,
    heals_at: Instant,
    /// True if many cores share few counters.
    crowded: bool,
    /// True if a store forgets more often than a cell keeps sources apart.
    flush_storm: bool,
}

impl Shape {
    fn is(&self, scenario: Scenario) -> bool {
        self.scenario == scenario
    }
}

impl Plan {
    /// Draws the plan of a seed.
    ///
    /// # Errors
    /// Returns the problems of the drawn rules, which would be a bug of this package.
    pub fn new(scenario: Scenario, seed: u64) -> Result<Self, Vec<Problem>> {
        let mut rng = Rng::new(seed, Stream::Plan);
        // A partition is noticed only after a while.
        let longer = if scenario == Scenario::Partition { 2 } else { 1 };
        let longer = if matches!(scenario, Scenario::Escrow | Scenario::Handover) { 2 } else { longer };
        let heals_at = longer * rng.between(1500, 4000) * MS;
        let crowded = scenario == Scenario::Crowded || scenario == Scenario::Everything && rng.chance(20);
        let flush_storm = crowded && rng.chance(20);
        let shape = Shape { scenario, heals_at, crowded, flush_storm };
        let (regions, gossip, weights) = draw_regions(&shape, seed);
        let mut edits = draw_edits(&mut rng, &shape, seed, &weights)?;
        if scenario.has_regions() && !matches!(scenario, Scenario::Rates | Scenario::Demand | Scenario::Handover) {
            draw_edits_of_regions(&mut Rng::new(seed, Stream::RegionEdits), &shape, &regions, &mut edits)?;
        }
        let deadline_us = rng.pick(100, &[50]) * MS;
        let (mut nodes, mut cores) = (rng.pick(2, &[1, 2, 3, 4]), rng.pick(1, &[1, 2]));
        let (mut primaries, mut lanes) = (rng.pick(1, &[2, 3]), rng.pick(4, &[1, 2, 8]));
        let (buckets, memory) = (shape.is(Scenario::Buckets), shape.is(Scenario::Memory));
        if shape.is(Scenario::Handover) {
            (nodes, primaries, lanes) = (nodes.min(2), 1, 1);
        }
        if buckets {
            (primaries, lanes) = (2, 8);
        }
        if crowded {
            (nodes, cores, lanes) = (rng.pick(3, &[4, 6]), rng.pick(8, &[12]), lanes.min(2));
        }
        let region = RegionIndex(0);
        let size = RegionSize { region, regions: regions.count(), nodes, primaries, lanes };
        let faults = draw_faults(&mut rng, &shape, &size);
        let traffic = draw_traffic(&mut rng, &shape);
        let demand = draw_demand(&mut rng, scenario, &edits, regions.count());
        let heals_at = match edits.first().and_then(|edit| edit.limits.first()).map(|limit| &limit.period) {
            Some(Period::Window { ms }) if scenario == Scenario::Demand => DEMAND_WINDOWS * ms * MS,
            _ => heals_at,
        };
        let (min_users, max_users) = user_range(&shape);
        Ok(Self {
            scenario,
            seed,
            regions,
            gossip,
            nodes,
            cores,
            primaries,
            lanes,
            users: u32::try_from(rng.between(min_users, max_users)).unwrap_or(1),
            max_keys: usize::try_from(if memory { rng.between(4, 16) } else { 1000 }).unwrap_or(1),
            lease_us: rng.pick(300, &[100, 1000]).min(if buckets { 100 } else { 1000 }) * MS,
            deadline_us,
            min_holders: 3,
            delay_us: rng.pick(300, &[50, 3000, 10_000]).min(if buckets { 300 } else { deadline_us / 10 }),
            lag_us: rng.pick(1, &[20, 300, 1000]).max(if shape.is(Scenario::Handover) { 300 } else { 0 }) * MS,
            edits,
            traffic,
            demand,
            faults,
            heals_at,
        })
    }
}

/// Returns the regions, their settings and their weights.
fn draw_regions(shape: &Shape, seed: u64) -> (Regions, GossipSettings, Vec<u32>) {
    let mut rng = Rng::new(seed, Stream::Regions);
    let has_regions = shape.scenario.has_regions();
    let count = if shape.is(Scenario::Handover) {
        3
    } else if has_regions {
        rng.pick(3, &[2])
    } else {
        1
    };
    let regions = if has_regions {
        Regions::draw(
            &mut rng,
            count,
            matches!(shape.scenario, Scenario::Rates | Scenario::Demand | Scenario::Handover),
        )
    } else {
        Regions::one()
    };
    let mut gossip = GossipSettings::draw(&mut rng);
    if shape.is(Scenario::Rates) {
        // Staleness is stated for messages that have room for all changes.
        gossip.max_bytes = 1 << 20;
    }
    (regions, gossip, draw_weights(&mut rng, count))
}

fn user_range(shape: &Shape) -> (u64, u64) {
    if shape.is(Scenario::Memory) {
        (20, 60)
    } else if shape.flush_storm || matches!(shape.scenario, Scenario::Rates | Scenario::Demand | Scenario::Handover) {
        (1, 1)
    } else if shape.is(Scenario::Buckets) || shape.crowded || shape.is(Scenario::Suspended) {
        (1, 2)
    } else {
        (1, 6)
    }
}

fn draw_edits(rng: &mut Rng, shape: &Shape, seed: u64, weights: &[u32]) -> Result<Vec<Edit>, Vec<Problem>> {
    let edit = |at, limits: &[Limit], revision| -> Result<Edit, Vec<Problem>> {
        let book = compile(limits, Revision(revision))?;
        let (weights, next_weights, delays_us) = (weights.to_vec(), None, vec![0; weights.len()]);
        Ok(Edit { at, limits: limits.to_vec(), book, weights, next_weights, delays_us })
    };
    let mut limits = draw_limits(rng, shape.scenario, shape.crowded);
    if shape.scenario.has_regions() {
        draw_scopes(&mut Rng::new(seed, Stream::Scopes), &mut limits);
        if shape.scenario.has_escrow() {
            draw_escrow(&mut Rng::new(seed, Stream::Scopes), shape.scenario, &mut limits);
        }
        if shape.is(Scenario::Rates) {
            draw_shared_limit(&mut Rng::new(seed, Stream::Scopes), &mut limits);
        }
    }
    let mut edits = vec![edit(0, &limits, 1)?];
    if matches!(shape.scenario, Scenario::Edits | Scenario::Replaced | Scenario::Everything) {
        let mut at = 0;
        for revision in 2..=rng.between(2, 5) {
            at += rng.between(100, shape.heals_at / MS / 4) * MS;
            for limit in limits.iter_mut().filter(|limit| limit.name.starts_with(LimitSet::Short.name())) {
                edit_limit(rng, limit);
            }
            edits.push(edit(at, &limits, revision)?);
        }
    }
    Ok(edits)
}

/// Draws edits of limits, of what regions do during a partition, and of weights. Each region takes an edit at a time of
/// its own.
fn draw_edits_of_regions(
    rng: &mut Rng,
    shape: &Shape,
    regions: &Regions,
    edits: &mut Vec<Edit>,
) -> Result<(), Vec<Problem>> {
    let count = if rng.chance(50) { rng.between(1, 3) } else { 0 };
    let mut at = 0;
    for _ in 0..count {
        let Some(last) = edits.last() else { return Ok(()) };
        let (mut limits, mut weights, revision) = (last.limits.clone(), last.weights.clone(), last.book.revision.0 + 1);
        at += rng.between(100, shape.heals_at / MS / 4) * MS;
        if at >= shape.heals_at {
            break;
        }
        let longest = rng.pick(50, &[400, 1500]) * MS;
        let longest = longest.min(shape.heals_at.saturating_sub(at));
        let delays_us: Vec<u64> = weights.iter().map(|_| rng.between(0, longest)).collect();
        for limit in limits.iter_mut().filter(|limit| limit.name.starts_with(LimitSet::Short.name())) {
            if rng.chance(70) {
                edit_limit(rng, limit);
            }
        }
        limits.iter_mut().for_each(|limit| edit_scope(rng, limit));
        let edits_weights = rng.chance(50);
        let book = compile(&limits, Revision(revision))?;
        if !shape.scenario.has_escrow() {
            if edits_weights {
                weights = draw_weights(rng, weights.len());
            }
            edits.push(Edit { at, book, limits, weights, next_weights: None, delays_us });
            continue;
        }
        // Under escrow, weights change in two steps. Windows that begin in any region before the first one are over in every
        // region at the second.
        let second_at = at + longest + 50 * MS + ESCROW_WINDOW_MS * MS + regions.clock_spread_us();
        let next_weights =
            (edits_weights && second_at + longest < shape.heals_at).then(|| draw_weights(rng, weights.len()));
        let first = Edit { at, book, limits, weights, next_weights, delays_us };
        let second = first.next_weights.clone().map(|weights| -> Result<Edit, Vec<Problem>> {
            let book = compile(&first.limits, Revision(revision + 1))?;
            Ok(Edit { at: second_at, book, weights, next_weights: None, ..first.clone() })
        });
        edits.push(first);
        if let Some(second) = second {
            at = second_at;
            edits.push(second?);
        }
    }
    Ok(())
}

fn compile(limits: &[Limit], revision: Revision) -> Result<Arc<RuleBook>, Vec<Problem>> {
    let domain = Domain { domain: DOMAIN.to_owned(), limits: limits.to_vec(), ..Domain::default() };
    RuleBook::compile(Arc::new(Rules { domains: vec![domain] }), revision).map(Arc::new)
}

fn draw_faults(rng: &mut Rng, shape: &Shape, size: &RegionSize) -> Vec<Fault> {
    let Shape { heals_at, crowded, flush_storm, .. } = *shape;
    let crowded = crowded || shape.is(Scenario::Handover);
    let mut faults = Vec::new();
    let [first, others @ ..] = shape.scenario.faults() else { return faults };
    let count =
        if flush_storm { 100 } else { rng.between(1, if crowded || shape.is(Scenario::Suspended) { 10 } else { 4 }) };
    for _ in 0..count {
        let region = if size.regions > 1 { RegionIndex(rng.index(size.regions)) } else { size.region };
        let size = &RegionSize { region, ..*size };
        let draw: DrawFault = if flush_storm { draw::flush } else { rng.pick(*first, others) };
        let kind = draw(rng, size);
        let begin = rng.between(50, heals_at / MS - 400) * MS;
        let longest = match shape.scenario {
            Scenario::Partition | Scenario::Escrow => 4000 * MS,
            _ if crowded => 300 * MS,
            _ => 1500 * MS,
        };
        let longest = longest.min(heals_at - begin);
        let end = if kind.is_sudden() { begin } else { begin + rng.between(20 * MS, longest) };
        faults.push(Fault { begin, end, region, kind });
    }
    faults.sort_by_key(|fault| fault.begin);
    faults
}

fn draw_traffic(rng: &mut Rng, shape: &Shape) -> Traffic {
    let forgets = matches!(shape.scenario, Scenario::Failover | Scenario::Forgetting);
    let mut traffic = Traffic {
        longest_gap_us: rng.pick(20, &[5, 50]) * MS,
        bursts: rng.pick(5, &[0, 20]),
        // A core that is the only one to charge a counter remembers all of its charges. With sticky users, the oracle
        // for the region's limit therefore allows for no forgotten charge.
        sticky: rng.chance(if forgets { 70 } else { 40 }),
        hang_up: rng.pick(0, &[3, 20, 40]),
        impatient: rng.pick(0, &[10]),
        retry: rng.pick(20, &[0, 80]),
        short_only: rng.pick(0, &[50, 100]),
        hop: 0,
        roam: 0,
    };
    if matches!(shape.scenario, Scenario::Rates | Scenario::Demand | Scenario::Handover) {
        traffic = Traffic { hang_up: 0, impatient: 0, retry: 0, sticky: false, ..traffic };
    }
    if shape.is(Scenario::Buckets) {
        // Hits that return to a bucket are requested again at once.
        traffic = Traffic { longest_gap_us: 5 * MS, bursts: 20, retry: 80, short_only: rng.pick(50, &[80]), ..traffic };
    }
    if shape.is(Scenario::Suspended) {
        // Cores hold tokens when their machine is suspended, and spend many when it wakes.
        traffic = Traffic { longest_gap_us: 5 * MS, sticky: false, short_only: 80, ..traffic };
    }
    if shape.crowded {
        // Every core charges the same few counters.
        let bursts = if shape.flush_storm { 0 } else { 20 };
        traffic = Traffic { longest_gap_us: 5 * MS, bursts, sticky: false, ..traffic };
    }
    if shape.scenario.has_regions() {
        traffic = Traffic {
            longest_gap_us: rng.pick(5, &[10, 20]) * MS,
            hop: rng.pick(100, &[0, 50]),
            roam: rng.pick(0, &[20, 100]),
            ..traffic
        };
    }
    if matches!(shape.scenario, Scenario::Rates | Scenario::Demand | Scenario::Handover) {
        traffic.hop = 0;
    }
    traffic
}

/// Draws the demand in each region, if the scenario has one.
fn draw_demand(rng: &mut Rng, scenario: Scenario, edits: &[Edit], regions: usize) -> Option<Demand> {
    let limit = edits.first()?.limits.first()?;
    let Period::Window { ms } = limit.period else { return None };
    let limit = (quota(limit), ms);
    match scenario {
        Scenario::Rates => Some(Demand::draw_random(rng, limit, regions)),
        Scenario::Handover => Some(Demand::draw_hungry(rng, limit, regions)),
        Scenario::Demand => Some(Demand::draw_legitimate(rng, limit, regions, DEMAND_WINDOWS / 2)),
        _ => None,
    }
}
