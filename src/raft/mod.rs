//! The Raft group of a cluster: its log, its network, its members.
//!
//! [`RaftNode`] is the node's place in the group. Its state machine is [`plane::PlaneState`]. What it stores is sealed
//! ([`seal`]) and goes to a [`disk::Disk`]. Other nodes are reached through a [`Transport`](crate::peers::Transport).

mod backup;
mod client;
mod config;
mod contact;
pub mod disk;
mod error;
mod group;
pub mod log;
pub mod machine;
mod members;
mod messages;
pub mod metrics;
mod node;
mod peer;
pub mod seal;
mod server;
pub mod store;
pub mod types;

pub use config::{RaftConfig, Timings};
pub use error::RaftError;
pub use node::RaftNode;
pub use seal::EncryptionKeys;
