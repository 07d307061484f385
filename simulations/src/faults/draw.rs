//! Draws the faults: one function for each kind.

use super::kinds::FaultKind;
use crate::ids::{NodeIndex, PrimaryIndex, RegionIndex};
use crate::rng::Rng;
use limiter::LaneId;

/// A region and the numbers of its parts.
#[derive(Clone, Copy, Debug)]
pub struct RegionSize {
    pub region: RegionIndex,
    /// The number of regions.
    pub regions: usize,
    pub nodes: usize,
    pub primaries: usize,
    pub lanes: u16,
}

impl RegionSize {
    fn node(&self, rng: &mut Rng) -> NodeIndex {
        NodeIndex(rng.index(self.nodes))
    }

    /// Draws another region. There must be at least two.
    fn other_region(&self, rng: &mut Rng) -> RegionIndex {
        RegionIndex((self.region.0 + 1 + rng.index(self.regions - 1)) % self.regions)
    }

    fn primary(&self, rng: &mut Rng) -> PrimaryIndex {
        PrimaryIndex(rng.index(self.primaries))
    }
}

/// Draws a fault of one kind.
pub type DrawFault = fn(&mut Rng, &RegionSize) -> FaultKind;

pub fn stall(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::Stall { primary: size.primary(rng) }
}

pub fn down(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::Down { primary: size.primary(rng), loses_writes: false }
}

pub fn down_with_loss(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::Down { primary: size.primary(rng), loses_writes: true }
}

pub fn failover(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::Failover { primary: size.primary(rng) }
}

pub fn split(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::Split { primary: size.primary(rng) }
}

pub fn flush(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::Flush { primary: size.primary(rng) }
}

pub fn evict(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::Evict { primary: size.primary(rng) }
}

pub fn full(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::Full { primary: size.primary(rng) }
}

pub fn clock_jump(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    let by_ms = i64::try_from(rng.between(10, 3000)).unwrap_or(0);
    FaultKind::ClockJump { primary: size.primary(rng), by_ms: if rng.chance(50) { by_ms } else { -by_ms } }
}

pub fn cut(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::Cut { node: size.node(rng), primary: size.primary(rng) }
}

pub fn loss(rng: &mut Rng, _: &RegionSize) -> FaultKind {
    FaultKind::Loss { percent: rng.pick(5, &[20, 60]) }
}

pub fn slow(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    let primary = if rng.chance(50) { Some(size.primary(rng)) } else { None };
    FaultKind::Slow { primary, up_to_ms: rng.pick(20, &[80, 200]) }
}

/// A primary that is far away from the nodes.
pub fn far(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::Slow { primary: Some(size.primary(rng)), up_to_ms: rng.pick(80, &[200]) }
}

pub fn repeat(rng: &mut Rng, _: &RegionSize) -> FaultKind {
    FaultKind::Repeat { percent: rng.pick(5, &[30]) }
}

pub fn crash(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::Crash { node: size.node(rng) }
}

pub fn pause(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::Pause { node: size.node(rng) }
}

pub fn suspend(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::Suspend { node: size.node(rng) }
}

pub fn replacement(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::Replacement { primary: size.primary(rng), stops: rng.chance(30) }
}

pub fn region_dies(rng: &mut Rng, _: &RegionSize) -> FaultKind {
    FaultKind::RegionDies { loses_data: rng.chance(30) }
}

pub fn region_is_rebuilt(_: &mut Rng, _: &RegionSize) -> FaultKind {
    FaultKind::RegionDies { loses_data: true }
}

pub fn cut_regions(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::CutRegions { other: size.other_region(rng) }
}

pub fn cut_regions_one_way(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    FaultKind::CutRegionsOneWay { to: size.other_region(rng) }
}

pub fn lossy_link(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    let (lost, repeated) = (rng.pick(5, &[30, 60, 0]), rng.pick(0, &[20, 60]));
    FaultKind::LossyLink { to: size.other_region(rng), lost, repeated, up_to_ms: rng.pick(0, &[300, 1000]) }
}

pub fn lane_move(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    let lane = LaneId(u16::try_from(rng.index(size.lanes.into())).unwrap_or(0));
    FaultKind::LaneMove { lane, to: size.primary(rng) }
}
