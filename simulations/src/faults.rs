//! What goes wrong in a simulation, and when.

use std::fmt;

use super::dice::Dice;

/// Microseconds since the simulation began.
pub type Instant = u64;

/// One thing that goes wrong, from an instant on, for a while.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    pub begin: Instant,
    pub end: Instant,
    pub kind: Kind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The primary is stopped: what is sent to it waits, and runs when it goes on.
    Stall { primary: usize },
    /// The primary is dead, and comes back with all that it had, or with what its last file had.
    Down { primary: usize, forgets: bool },
    /// A replica takes over at the end; writes that had not reached it are lost.
    Failover { primary: usize },
    /// A replica takes over at once, and the old primary goes on serving nodes of odd number to the end: what it is told is
    /// lost.
    Split { primary: usize },
    /// The primary forgets everything, at once.
    Flush { primary: usize },
    /// The primary evicts some of its keys.
    Evict { primary: usize },
    /// The primary refuses to write.
    Full { primary: usize },
    /// The primary's clock is set forward or back by so many milliseconds.
    Leap { primary: usize, by_ms: i64 },
    /// Nothing passes between the node and the primary.
    Cut { node: usize, primary: usize },
    /// So many batches and answers of a hundred are lost, each way.
    Loss { percent: u32 },
    /// Batches and answers take up to so many milliseconds, to and from one primary, or all.
    Slow { primary: Option<usize>, up_to_ms: u64 },
    /// So many batches of a hundred come a second time.
    Repeat { percent: u32 },
    /// The node is killed, and started again at the end.
    Crash { node: usize },
    /// The node is stopped: it does nothing, and then all at once.
    Pause { node: usize },
    /// The machine of the node is suspended: it does nothing, and its monotonic clock stands still.
    Suspend { node: usize },
    /// A replica takes over in order while the old primary goes on serving the nodes that have not noticed. The old
    /// primary becomes a replica at the end; `stops` says that it is stopped until then.
    Switch { primary: usize, stops: bool },
    /// Keys of one lane move to another primary, at once.
    Move { lane: u16, to: usize },
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stall { primary } => write!(f, "primary {primary} is stopped"),
            Self::Down { primary, forgets: false } => write!(f, "primary {primary} is dead, and keeps what it had"),
            Self::Down { primary, forgets: true } => {
                write!(f, "primary {primary} is dead, and forgets what it wrote last")
            }
            Self::Failover { primary } => {
                write!(f, "primary {primary} is dead until its replica takes over, behind by what it had last")
            }
            Self::Split { primary } => write!(f, "primary {primary} was replaced, and nodes of odd number do not know"),
            Self::Flush { primary } => write!(f, "primary {primary} forgets everything"),
            Self::Evict { primary } => write!(f, "primary {primary} evicts keys"),
            Self::Full { primary } => write!(f, "primary {primary} is out of memory"),
            Self::Leap { primary, by_ms } => write!(f, "primary {primary}'s clock is set by {by_ms} ms"),
            Self::Cut { node, primary } => write!(f, "nothing passes between node {node} and primary {primary}"),
            Self::Loss { percent } => write!(f, "{percent} % of the batches and of the answers are lost"),
            Self::Slow { primary: None, up_to_ms } => write!(f, "batches and answers take up to {up_to_ms} ms"),
            Self::Slow { primary: Some(primary), up_to_ms } => {
                write!(f, "batches to and answers from primary {primary} take up to {up_to_ms} ms")
            }
            Self::Repeat { percent } => write!(f, "{percent} % of the batches come twice"),
            Self::Crash { node } => write!(f, "node {node} is killed"),
            Self::Pause { node } => write!(f, "node {node} is stopped"),
            Self::Suspend { node } => write!(f, "node {node} is suspended, and its monotonic clock stands still"),
            Self::Switch { primary, stops: false } => {
                write!(f, "primary {primary} is replaced in order, and goes on beside the new one")
            }
            Self::Switch { primary, stops: true } => {
                write!(f, "primary {primary} is stopped and replaced, and wakes at the end")
            }
            Self::Move { lane, to } => write!(f, "lane {lane} moves to primary {to}"),
        }
    }
}

impl Kind {
    /// Whether it is over as soon as it began.
    pub const fn is_sudden(&self) -> bool {
        matches!(self, Self::Flush { .. } | Self::Evict { .. } | Self::Leap { .. } | Self::Move { .. })
    }

    /// Whether a batch may be charged, or what it brings back be lost, without its node being told.
    pub const fn loses_outcomes(&self) -> bool {
        !matches!(self, Self::Move { .. })
    }

    /// Whether the store forgets what it had acknowledged.
    pub const fn forgets(&self) -> bool {
        matches!(
            self,
            Self::Down { forgets: true, .. }
                | Self::Failover { .. }
                | Self::Split { .. }
                | Self::Switch { .. }
                | Self::Flush { .. }
                | Self::Evict { .. }
        )
    }

    /// Whether checks may be decided without the store.
    pub const fn degrades(&self) -> bool {
        !matches!(self, Self::Flush { .. } | Self::Evict { .. } | Self::Repeat { .. } | Self::Move { .. })
    }
}

/// Where things can go wrong.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub nodes: usize,
    pub primaries: usize,
    pub lanes: u16,
}

/// Draws one of a kind's faults.
pub type Draw = fn(&mut Dice, &Place) -> Kind;

fn some(dice: &mut Dice, count: usize) -> usize {
    usize::try_from(dice.between(0, count.max(1) as u64 - 1)).unwrap_or(0)
}

pub fn stall(dice: &mut Dice, place: &Place) -> Kind {
    Kind::Stall { primary: some(dice, place.primaries) }
}

pub fn down(dice: &mut Dice, place: &Place) -> Kind {
    Kind::Down { primary: some(dice, place.primaries), forgets: false }
}

pub fn amnesia(dice: &mut Dice, place: &Place) -> Kind {
    Kind::Down { primary: some(dice, place.primaries), forgets: true }
}

pub fn failover(dice: &mut Dice, place: &Place) -> Kind {
    Kind::Failover { primary: some(dice, place.primaries) }
}

pub fn split(dice: &mut Dice, place: &Place) -> Kind {
    Kind::Split { primary: some(dice, place.primaries) }
}

pub fn flush(dice: &mut Dice, place: &Place) -> Kind {
    Kind::Flush { primary: some(dice, place.primaries) }
}

pub fn evict(dice: &mut Dice, place: &Place) -> Kind {
    Kind::Evict { primary: some(dice, place.primaries) }
}

pub fn full(dice: &mut Dice, place: &Place) -> Kind {
    Kind::Full { primary: some(dice, place.primaries) }
}

pub fn leap(dice: &mut Dice, place: &Place) -> Kind {
    let by_ms = i64::try_from(dice.between(10, 3000)).unwrap_or(0);
    Kind::Leap { primary: some(dice, place.primaries), by_ms: if dice.chance(50) { by_ms } else { -by_ms } }
}

pub fn cut(dice: &mut Dice, place: &Place) -> Kind {
    Kind::Cut { node: some(dice, place.nodes), primary: some(dice, place.primaries) }
}

pub fn loss(dice: &mut Dice, _: &Place) -> Kind {
    Kind::Loss { percent: dice.pick(5, &[20, 60]) }
}

pub fn slow(dice: &mut Dice, place: &Place) -> Kind {
    let primary = if dice.chance(50) { Some(some(dice, place.primaries)) } else { None };
    Kind::Slow { primary, up_to_ms: dice.pick(20, &[80, 200]) }
}

pub fn far(dice: &mut Dice, place: &Place) -> Kind {
    Kind::Slow { primary: Some(some(dice, place.primaries)), up_to_ms: dice.pick(80, &[200]) }
}

pub fn repeat(dice: &mut Dice, _: &Place) -> Kind {
    Kind::Repeat { percent: dice.pick(5, &[30]) }
}

pub fn crash(dice: &mut Dice, place: &Place) -> Kind {
    Kind::Crash { node: some(dice, place.nodes) }
}

pub fn pause(dice: &mut Dice, place: &Place) -> Kind {
    Kind::Pause { node: some(dice, place.nodes) }
}

pub fn suspend(dice: &mut Dice, place: &Place) -> Kind {
    Kind::Suspend { node: some(dice, place.nodes) }
}

pub fn switch(dice: &mut Dice, place: &Place) -> Kind {
    Kind::Switch { primary: some(dice, place.primaries), stops: dice.chance(30) }
}

pub fn relocation(dice: &mut Dice, place: &Place) -> Kind {
    let lane = u16::try_from(dice.between(0, u64::from(place.lanes.max(1)) - 1)).unwrap_or(0);
    Kind::Move { lane, to: some(dice, place.primaries) }
}
