//! Who asks: the owners of API keys.

use std::time::Duration;

pub use plane::Owner;

use super::BoxFuture;

/// Finds the owners of API keys.
pub trait Identities: Send + Sync + 'static {
    /// Says whom a key belongs to: at once if the node knows it, else after a look-up, or after `wait` without one.
    fn identify(&self, key: &str, wait: Duration) -> Identified;
}

/// The answer about a key: known, or looked up.
pub enum Identified {
    Now(KeyAnswer),
    Later {
        looked_up: BoxFuture<'static, KeyAnswer>,
        /// The answer of a node that does not wait for the look-up: what is known of the key from longer ago.
        without: KeyAnswer,
    },
}

/// What is known of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyAnswer {
    Valid(Owner),
    Unknown,
    Expired,
    Revoked,
    /// The key cannot be looked up now.
    Unavailable,
}

/// A node that has no database. It knows no key.
pub struct NoIdentities;

impl Identities for NoIdentities {
    fn identify(&self, _key: &str, _wait: Duration) -> Identified {
        Identified::Now(KeyAnswer::Unavailable)
    }
}
