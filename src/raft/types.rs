//! What the Raft log holds, and what is known of each member.

use std::io::Cursor;

use plane::{Command, Outcome};
use serde::{Deserialize, Serialize};

openraft::declare_raft_types!(
    /// The types that the Raft library is used with.
    pub TypeConfig:
        D = Proposal,
        R = Applied,
        NodeId = u64,
        Node = MemberNode,
        SnapshotData = Cursor<Vec<u8>>,
);

pub type Raft = openraft::Raft<TypeConfig>;
pub type LogId = openraft::LogId<u64>;
pub type Vote = openraft::Vote<u64>;
pub type Entry = openraft::Entry<TypeConfig>;
pub type StoredMembership = openraft::StoredMembership<u64, MemberNode>;
pub type SnapshotMeta = openraft::SnapshotMeta<u64, MemberNode>;
pub type Metrics = openraft::RaftMetrics<u64, MemberNode>;

/// What a log entry asks for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Proposal {
    /// A change of the replicated configuration.
    Command(Box<Command>),
    /// The node with this id is removed for good. The change of the members follows.
    Remove { id: u64 },
}

/// What applying a log entry did: the outcome of a command, and nothing for other entries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Applied(pub Option<Outcome>);

/// What the cluster knows of a member. It is replicated with the list of members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberNode {
    pub name: String,
    pub region: String,
    /// Where the other members reach it, `host:port`.
    pub address: String,
    /// Whether it keeps its log on a disk. Only then it may become a voter.
    pub keeps_disk: bool,
}
