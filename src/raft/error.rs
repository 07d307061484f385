//! Why a node's Raft part does not start.

use super::seal::Unreadable;

/// Why a node's Raft part does not start.
#[derive(Debug, thiserror::Error)]
pub enum RaftError {
    /// What is stored cannot be trusted. The node does not guess what is missing.
    #[error(
        "{place}: {what} {why}. The node does not guess: wipe the folder and let the node join again, or, if no voter is \
         left, form a new cluster and use `tidegate cluster restore`"
    )]
    Damaged { place: String, what: String, why: String },
    #[error("{place}: {what} {why}. Add the key to the file, or wipe the folder and let the node join again")]
    WrongKey { place: String, what: String, why: Unreadable },
    #[error("{place}: {error}")]
    Io { place: String, error: std::io::Error },
    #[error("{place}: belongs to the cluster {found}, but cluster.name is {expected}")]
    OtherCluster { place: String, found: String, expected: String },
    #[error("{place}: has the format {found}, and this version reads the format {expected}")]
    OtherFormat { place: String, found: u32, expected: u32 },
    #[error("{0}")]
    Configuration(String),
}
