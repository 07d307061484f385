//! The events of a simulation.

use crate::ids::{Boot, CheckIndex, CoreId, FaultIndex, NodeIndex, PrimaryIndex, RegionIndex};
use limiter::counter::{Batch, BatchReply, StoreError};
use limiter::{LaneId, Reply};

/// Something that happens at an instant.
pub enum Event {
    /// A check comes to its core.
    CheckSent(CheckIndex),
    /// A check's deadline is over.
    DeadlineOver(CheckIndex),
    /// A client hangs up.
    HangUp(CheckIndex),
    /// The next client sends checks.
    NextClient,
    /// The client of a check that was denied goes to another region and asks there.
    ClientHops(CheckIndex),
    /// The flusher of a core runs.
    FlusherRuns {
        core: CoreId,
        boot: Boot,
        wake: Wake,
    },
    /// A core probes the primaries for which its breakers are open.
    Probe {
        core: CoreId,
        boot: Boot,
    },
    /// A packet arrives at a primary.
    PacketArrives(Packet),
    /// The reply to a batch reaches its core.
    ReplyArrives {
        core: CoreId,
        boot: Boot,
        reply: Reply,
    },
    /// The time for the reply to a packet is over.
    ReplyOverdue(Packet),
    /// A node detects that a primary was replaced.
    ReplacementDetected {
        region: RegionIndex,
        node: NodeIndex,
        primary: PrimaryIndex,
    },
    /// A node sends to the new primary from now on.
    ReplacementFollowed {
        region: RegionIndex,
        node: NodeIndex,
        primary: PrimaryIndex,
    },
    FaultBegins(FaultIndex),
    FaultEnds(FaultIndex),
    /// The rules of an edit reach a core. `edit` is the index in the plan.
    RulesArrive {
        core: CoreId,
        edit: usize,
    },
}

/// Why a flusher runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Wake {
    Flush,
    DelayOver,
    Tick,
}

/// A batch on its way from a core to a primary of the same region.
#[derive(Clone)]
pub struct Packet {
    pub core: CoreId,
    pub boot: Boot,
    pub lane: LaneId,
    pub batch: Batch,
    pub primary: PrimaryIndex,
    /// True if it goes to the server that was replaced.
    pub to_replaced: bool,
    /// True if it waited at a replaced server that was stopped. It runs when that server goes on.
    pub held: bool,
    /// True if it is a second copy, to which nobody expects a reply.
    pub duplicate: bool,
}

impl Packet {
    /// Returns the reply to its batch.
    pub const fn reply(&self, result: Result<BatchReply, StoreError>) -> Reply {
        Reply { lane: self.lane, batch: self.batch.id, result }
    }
}
