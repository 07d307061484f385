//! The events of a simulation.

use crate::ids::{Boot, CheckIndex, CoreId, FaultIndex, Instant, NodeId, NodeIndex, PrimaryIndex, RegionIndex};
use limiter::counter::{Batch, BatchReply, Given, StoreError};
use limiter::escrow::Want;
use limiter::gossip::Report;
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
    /// The next check of a region that has a rate of its own is sent.
    NextCheckOf(RegionIndex),
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
    /// The reply to a batch of a node reaches it. `core` is the node's first core.
    NodeReplyArrives {
        core: CoreId,
        boot: Boot,
        kind: PacketKind,
        reply: Reply,
    },
    /// A replica has what a primary had written when it ran a batch at `ran_at`, or the time to wait for it is over.
    ReplicaConfirms {
        packet: Packet,
        result: Result<BatchReply, StoreError>,
        ran_at: Instant,
        /// The term of the primary that ran the batch.
        term: u32,
        is_confirmed: bool,
    },
    /// A question for rights arrives at a node of another region.
    QuestionArrives(RightsQuestion),
    /// The answer to a question for rights arrives at the node that asked.
    AnswerArrives(RightsAnswer),
    /// The time for the answer to a question is over.
    AnswerOverdue {
        node: NodeId,
        boot: Boot,
        receiver: NodeId,
        number: u64,
    },
    /// A node tells other regions what changed.
    GossipTick {
        node: NodeId,
        boot: Boot,
    },
    /// A message of another region arrives at a node.
    MessageArrives(RegionMessage),
    /// The acknowledgement of a message arrives at the node that sent the message.
    AckArrives(RegionAck),
    /// The time for the acknowledgement of a message to another region is over.
    AckOverdue {
        node: NodeId,
        boot: Boot,
        receiver: NodeId,
        number: u64,
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
    pub kind: PacketKind,
}

/// Who sent a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketKind {
    /// A core's shard.
    Shard,
    /// The node's import of this number, which carries what another region counted.
    Import(u64),
    /// The node's answer of this number to a question for rights.
    Give(u64),
    /// The node takes rights that another region gave.
    Take,
}

/// A question for rights from a node to a node of another region.
#[derive(Clone)]
pub struct RightsQuestion {
    pub from: NodeId,
    /// The boot of the node that asks.
    pub boot: Boot,
    pub to: NodeId,
    pub number: u64,
    pub wants: Vec<Want>,
}

/// The answer to a question for rights.
#[derive(Clone)]
pub struct RightsAnswer {
    pub from: NodeId,
    /// The node that asked, and its boot.
    pub to: NodeId,
    pub boot: Boot,
    pub number: u64,
    /// In the order of the wants.
    pub answers: Vec<Option<Given>>,
}

/// A message from a node to a node of another region.
#[derive(Clone)]
pub struct RegionMessage {
    pub from: NodeId,
    /// The boot of the sender.
    pub boot: Boot,
    pub to: NodeId,
    pub number: u64,
    pub reports: Vec<Report>,
}

/// The acknowledgement of a message.
#[derive(Clone)]
pub struct RegionAck {
    pub from: NodeId,
    /// The sender of the message, and its boot.
    pub to: NodeId,
    pub boot: Boot,
    pub number: u64,
    /// Names what the node that acknowledges and its store remember.
    pub memory: u64,
    /// The keys that could not be stored.
    pub failed: Vec<Box<[u8]>>,
    /// True if a third region does not hear the node that acknowledges.
    pub partitioned: bool,
}

impl Packet {
    /// Returns the arrival of the reply at the packet's sender.
    pub fn reply_arrives(&self, result: Result<BatchReply, StoreError>) -> Event {
        let (core, boot, reply) = (self.core, self.boot, self.reply(result));
        match self.kind {
            PacketKind::Shard => Event::ReplyArrives { core, boot, reply },
            kind => Event::NodeReplyArrives { core, boot, kind, reply },
        }
    }

    /// Returns the reply to its batch.
    pub const fn reply(&self, result: Result<BatchReply, StoreError>) -> Reply {
        Reply { lane: self.lane, batch: self.batch.id, result }
    }
}
