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

pub fn lane_move(rng: &mut Rng, size: &RegionSize) -> FaultKind {
    let lane = LaneId(u16::try_from(rng.index(size.lanes.into())).unwrap_or(0));
    FaultKind::LaneMove { lane, to: size.primary(rng) }
}
