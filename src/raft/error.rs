//! Why a node's Raft part does not start.

use std::io;

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
    Io { place: String, error: io::Error },
    #[error("{place}: belongs to the cluster {found}, but cluster.name is {expected}")]
    OtherCluster { place: String, found: String, expected: String },
    #[error("{place}: has the format {found}, and this version reads the format {expected}")]
    OtherFormat { place: String, found: u32, expected: u32 },
    #[error("{0}")]
    Configuration(String),
}

impl RaftError {
    /// Why the file at `place` cannot be read: only what it holds can be damaged, and other errors may pass.
    pub(super) fn reading(place: &str, error: io::Error) -> Self {
        let place = place.to_owned();
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                Self::Damaged { place, what: "the file".to_owned(), why: format!("cannot be read: {error}") }
            }
            _ => Self::Io { place, error },
        }
    }
}
