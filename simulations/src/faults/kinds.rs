//! The kinds of faults.

use std::fmt;

use crate::ids::{Instant, NodeIndex, PrimaryIndex, RegionIndex};
use limiter::LaneId;

/// One fault, from `begin` to `end`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub begin: Instant,
    pub end: Instant,
    /// The region to whose parts `kind` refers.
    pub region: RegionIndex,
    pub kind: FaultKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The primary is stopped. Packets to it wait, and run when it goes on.
    Stall { primary: PrimaryIndex },
    /// The primary is dead. At the end it returns with all its data, or without its last writes.
    Down { primary: PrimaryIndex, loses_writes: bool },
    /// The primary is dead. At the end a replica takes over, without the writes that had not reached it.
    Failover { primary: PrimaryIndex },
    /// A replica takes over at once. Until the end, the old primary still serves the nodes of odd number. The writes to
    /// the old primary are lost.
    Split { primary: PrimaryIndex },
    /// The primary loses all its data at once.
    Flush { primary: PrimaryIndex },
    /// The primary evicts some of its keys.
    Evict { primary: PrimaryIndex },
    /// The primary accepts no writes.
    Full { primary: PrimaryIndex },
    /// The primary's clock is set forward, or back if `by_ms` is negative.
    ClockJump { primary: PrimaryIndex, by_ms: i64 },
    /// No packet passes between the node and the primary.
    Cut { node: NodeIndex, primary: PrimaryIndex },
    /// `percent` of the batches and of the replies are lost.
    Loss { percent: u32 },
    /// Batches and replies take up to `up_to_ms`, to and from one primary, or all primaries if it is `None`.
    Slow { primary: Option<PrimaryIndex>, up_to_ms: u64 },
    /// `percent` of the batches arrive twice.
    Repeat { percent: u32 },
    /// The node is killed, and restarted at the end.
    Crash { node: NodeIndex },
    /// The node is stopped. At the end it does all the delayed work at once.
    Pause { node: NodeIndex },
    /// The node's machine is suspended: the node is stopped, and its monotonic clock stands still.
    Suspend { node: NodeIndex },
    /// A replica with all the data takes over, while the old primary still serves the nodes that have not noticed. At
    /// the end the old primary becomes a replica. If `stops` is true, it is stopped until then.
    Replacement { primary: PrimaryIndex, stops: bool },
    /// All nodes and all primaries are dead. At the end they return with all their data, or the primaries without it.
    RegionDies { loses_data: bool },
    /// No message passes between the region and another one.
    CutRegions { other: RegionIndex },
    /// No message passes from the region to another one. Messages from there still arrive.
    CutRegionsOneWay { to: RegionIndex },
    /// Of the messages to another region, `lost` percent are lost, `repeated` percent arrive twice, and each takes up
    /// to `up_to_ms` longer.
    LossyLink { to: RegionIndex, lost: u32, repeated: u32, up_to_ms: u64 },
    /// The keys of one lane move to another primary at once.
    LaneMove { lane: LaneId, to: PrimaryIndex },
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stall { primary } => write!(f, "primary {primary} is stopped"),
            Self::Down { primary, loses_writes: false } => {
                write!(f, "primary {primary} is dead, and keeps its data")
            }
            Self::Down { primary, loses_writes: true } => {
                write!(f, "primary {primary} is dead, and loses its last writes")
            }
            Self::Failover { primary } => {
                write!(f, "primary {primary} is dead until its replica takes over without its last writes")
            }
            Self::Split { primary } => {
                write!(f, "primary {primary} was replaced, and nodes of odd number do not detect it")
            }
            Self::Flush { primary } => write!(f, "primary {primary} loses all its data"),
            Self::Evict { primary } => write!(f, "primary {primary} evicts keys"),
            Self::Full { primary } => write!(f, "primary {primary} is out of memory"),
            Self::ClockJump { primary, by_ms } => write!(f, "primary {primary}'s clock jumps by {by_ms} ms"),
            Self::Cut { node, primary } => write!(f, "no packet passes between node {node} and primary {primary}"),
            Self::Loss { percent } => write!(f, "{percent} % of the batches and of the replies are lost"),
            Self::Slow { primary: None, up_to_ms } => write!(f, "batches and replies take up to {up_to_ms} ms"),
            Self::Slow { primary: Some(primary), up_to_ms } => {
                write!(f, "batches to and replies from primary {primary} take up to {up_to_ms} ms")
            }
            Self::Repeat { percent } => write!(f, "{percent} % of the batches arrive twice"),
            Self::Crash { node } => write!(f, "node {node} is killed"),
            Self::Pause { node } => write!(f, "node {node} is stopped"),
            Self::Suspend { node } => write!(f, "node {node} is suspended, and its monotonic clock stands still"),
            Self::Replacement { primary, stops: false } => {
                write!(f, "primary {primary} is replaced without loss, and the old server goes on beside the new one")
            }
            Self::Replacement { primary, stops: true } => {
                write!(f, "primary {primary} is stopped and replaced, and the old server goes on at the end")
            }
            Self::RegionDies { loses_data: false } => write!(f, "the whole region is dead, and keeps its data"),
            Self::RegionDies { loses_data: true } => write!(f, "the whole region is dead, and loses all its data"),
            Self::CutRegions { other } => write!(f, "no message passes to or from region {other}"),
            Self::CutRegionsOneWay { to } => write!(f, "no message passes to region {to}"),
            Self::LossyLink { to, lost, repeated, up_to_ms } => write!(
                f,
                "of the messages to region {to}, {lost} % are lost and {repeated} % arrive twice; they take up to \
                 {up_to_ms} ms longer"
            ),
            Self::LaneMove { lane, to } => write!(f, "lane {lane} moves to primary {to}"),
        }
    }
}

impl FaultKind {
    /// True if it ends when it begins.
    pub const fn is_sudden(&self) -> bool {
        matches!(self, Self::Flush { .. } | Self::Evict { .. } | Self::ClockJump { .. } | Self::LaneMove { .. })
    }

    /// True if it only concerns messages between regions.
    pub const fn is_between_regions(&self) -> bool {
        matches!(self, Self::CutRegions { .. } | Self::CutRegionsOneWay { .. } | Self::LossyLink { .. })
    }

    /// True if a batch may be charged, or its returns may be lost, without a reply to its node.
    pub const fn loses_outcomes(&self) -> bool {
        !matches!(self, Self::LaneMove { .. }) && !self.is_between_regions()
    }

    /// True if a primary may forget writes.
    pub const fn forgets(&self) -> bool {
        match self {
            Self::Down { loses_writes, .. } => *loses_writes,
            Self::RegionDies { loses_data } => *loses_data,
            Self::Failover { .. } | Self::Split { .. } | Self::Flush { .. } | Self::Evict { .. } => true,
            _ => false,
        }
    }

    /// True if nodes may decide checks without the store.
    pub const fn degrades(&self) -> bool {
        !matches!(self, Self::Flush { .. } | Self::Evict { .. } | Self::Repeat { .. } | Self::LaneMove { .. })
            && !self.is_between_regions()
    }
}
