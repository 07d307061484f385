//! Draws a plan from a scenario and a seed. The order of the draws decides the history of every seed.

use super::calendar::Calendar;
use super::demand::Demand;
use super::draw_edits::{draw_edits, draw_edits_of_regions};
use super::gossip::{GossipSettings, draw_weights};
use super::kind::Scenario;
use super::limit_math::quota;
use super::plan::{Edit, Plan, Traffic};
use super::regions::Regions;
use crate::faults::Fault;
use crate::faults::draw::{self, DrawFault, RegionSize};
use crate::ids::{Instant, RegionIndex};
use crate::rng::{Rng, Stream};
use limiter::rules::{Limit, Period, Problem};

const MS: u64 = 1000;
/// The windows of [`Scenario::Demand`].
const DEMAND_WINDOWS: u64 = 6;
/// The demand for a limit of a calendar is drawn for this time, in milliseconds. [`Scenario::Demand`] lasts as long
/// from the beginning of the calendar's window on.
const CALENDAR_DEMAND_MS: u64 = 8000;
/// The percentage of plans with limits under escrow in which one of them has a calendar.
const CALENDARS_PERCENT: u32 = 35;

/// What is special about a simulation.
pub struct Shape {
    pub scenario: Scenario,
    pub heals_at: Instant,
    /// The calendar of a limit under escrow.
    pub calendar: Option<Calendar>,
    /// True if many cores share few counters.
    pub crowded: bool,
    /// True if a store forgets more often than a cell keeps sources apart.
    flush_storm: bool,
}

impl Shape {
    pub fn is(&self, scenario: Scenario) -> bool {
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
        let calendar = draw_calendar(scenario, heals_at, seed);
        let shape = Shape { scenario, heals_at, calendar, crowded, flush_storm };
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
        let demand = draw_demand(&mut rng, &shape, &edits, regions.count());
        let heals_at = match (calendar, edits.first().and_then(|edit| edit.rules.limits.first())) {
            (Some(calendar), _) if scenario == Scenario::Demand => calendar.turns_at + CALENDAR_DEMAND_MS * MS,
            (None, Some(limit)) if scenario == Scenario::Demand => DEMAND_WINDOWS * window_ms(limit) * MS,
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
            calendar,
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

fn draw_faults(rng: &mut Rng, shape: &Shape, size: &RegionSize) -> Vec<Fault> {
    let Shape { heals_at, crowded, flush_storm, .. } = *shape;
    let crowded = crowded || shape.is(Scenario::Handover);
    let mut faults = Vec::new();
    let [first, others @ ..] = shape.scenario.faults() else { return faults };
    if shape.is(Scenario::Books) && rng.chance(50) {
        return faults;
    }
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
    if shape.is(Scenario::Books) {
        traffic.short_only = 0;
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
fn draw_demand(rng: &mut Rng, shape: &Shape, edits: &[Edit], regions: usize) -> Option<Demand> {
    let limit = edits.first()?.rules.limits.first()?;
    let drawn = (quota(limit), window_ms(limit));
    match shape.scenario {
        Scenario::Rates => Some(Demand::draw_random(rng, drawn, regions)),
        Scenario::Handover => Some(Demand::draw_hungry(rng, drawn, regions)),
        Scenario::Demand => {
            let earlier_us = shape.calendar.map_or(DEMAND_WINDOWS / 2 * drawn.1 * MS, |calendar| calendar.turns_at);
            Some(Demand::draw_legitimate(rng, drawn, regions, earlier_us))
        }
        _ => None,
    }
}

/// Returns the length of a limit's windows, or the time for which the demand for a limit of a calendar is drawn, in
/// milliseconds.
const fn window_ms(limit: &Limit) -> u64 {
    match limit.period {
        Period::Window { ms } => ms,
        Period::Calendar { .. } => CALENDAR_DEMAND_MS,
    }
}

/// Draws a calendar for a limit under escrow, in some plans.
fn draw_calendar(scenario: Scenario, heals_at: Instant, seed: u64) -> Option<Calendar> {
    let mut rng = Rng::new(seed, Stream::Calendars);
    let has_one = scenario.has_escrow() && rng.chance(CALENDARS_PERCENT);
    let latest = if scenario == Scenario::Demand { 1000 * MS } else { heals_at / 2 };
    has_one.then(|| Calendar::draw(&mut rng, 200 * MS, latest))
}
