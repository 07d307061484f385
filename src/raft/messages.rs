//! What nodes say to one another, inside an envelope.

use limiter::Revision;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest, VoteResponse};
use serde::{Deserialize, Serialize};

use super::types::{MemberNode, SnapshotMeta, TypeConfig, Vote};
use crate::ports::plane::{ConsensusError, MemberChange};

/// The version of the protocol. A node talks with the same and the neighbouring versions.
pub const VERSION: u32 = 1;
/// The largest message. A rule book has at most 32 MiB.
pub const MAX_MESSAGE_BYTES: usize = 64 << 20;
/// The target of a message for whichever node is at an address.
pub const ANYONE: u64 = 0;

/// A request, in JSON. Bytes travel beside it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Request {
    Append {
        request: AppendEntriesRequest<TypeConfig>,
        /// How long ago a quorum answered the leader; `None` if none did.
        quorum_age_ms: Option<u64>,
    },
    Vote(VoteRequest<u64>),
    /// A part of a snapshot. Its bytes are beside the request.
    Snapshot {
        vote: Vote,
        meta: Box<SnapshotMeta>,
        offset: u64,
        done: bool,
    },
    /// A member reports, or a node asks to be admitted.
    Announce(Announcement),
    /// A learner leaves for now.
    Leave,
    /// A change of the members, for the leader. The bytes of a backup are beside it.
    Administer(MemberChange),
    /// Who is there?
    Identify,
}

/// What a node says of itself.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Announcement {
    pub node: MemberNode,
    pub revision: Revision,
}

/// Who a node is.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Identified {
    pub id: u64,
    pub node: MemberNode,
    /// True if the node is in a cluster already.
    pub initialised: bool,
}

/// The reply to a request, in JSON.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reply {
    Append(AppendEntriesResponse<u64>),
    Vote(VoteResponse<u64>),
    Snapshot(Vote),
    /// The part of a snapshot does not follow the part before it.
    SnapshotMismatch(openraft::error::SnapshotMismatch),
    Announced(Announced),
    Left(bool),
    Administered(Result<(), ConsensusError>),
    Identified(Identified),
    /// The node cannot serve this now.
    Failed(String),
}

/// What a node says to one that announces itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Announced {
    /// It is a member.
    Member,
    /// Another node leads, at this address.
    Leader(String),
    /// The node knows no leader.
    NoLeader,
    /// It cannot become a member until an operator does something.
    Refused(String),
}
