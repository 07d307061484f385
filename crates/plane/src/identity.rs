//! Users and API keys, and what a node may decide from what it knows of a key.

use std::fmt;

use limiter::Revision;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::recent::{RecentChanges, RowVersion};

/// The SHA-256 of an API key. The key itself is stored nowhere.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct KeyHash(pub [u8; 32]);

impl KeyHash {
    /// The hash of an API key, or of an admin token.
    pub fn of(secret: &str) -> Self {
        Self(Sha256::digest(secret).into())
    }
}

/// Why a text is no SHA-256 in hexadecimal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 64 hexadecimal digits")]
pub struct NotAHash;

impl fmt::Display for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl From<KeyHash> for String {
    fn from(hash: KeyHash) -> Self {
        hash.to_string()
    }
}

impl TryFrom<String> for KeyHash {
    type Error = NotAHash;

    fn try_from(text: String) -> Result<Self, NotAHash> {
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let mut hash = [0; 32];
        if text.len() != 64 {
            return Err(NotAHash);
        }
        for (byte, pair) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
            let [high, low] = pair else { return Err(NotAHash) };
            *byte = digit(*high).zip(digit(*low)).map(|(high, low)| 16 * high + low).ok_or(NotAHash)?;
        }
        Ok(Self(hash))
    }
}

/// A row of `api_keys`. Times are in milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRow {
    pub hash: KeyHash,
    /// The public name of the key. It says nothing about the key itself.
    pub key_id: String,
    pub user: String,
    /// The tier of this key; `None` means that of its user.
    pub tier: Option<String>,
    pub expires_at_ms: Option<u64>,
    pub revoked_at_ms: Option<u64>,
}

/// A row of `users`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRow {
    pub user: String,
    pub tier: Option<String>,
}

/// What a look-up found for a hash, with the revision that the answering server was at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CachedKey {
    pub revision: Revision,
    /// The key and its user; `None` if there is no such key.
    pub found: Option<(KeyRow, UserRow)>,
}

/// Whom a valid key belongs to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    pub user: String,
    pub tier: Option<String>,
    pub key_id: String,
}

/// What a node knows of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeyVerdict {
    Valid(Owner),
    Unknown,
    Expired,
    Revoked,
    /// The node must look the key up: it knows nothing of it, or what it knows is too old.
    LookUp,
}

/// Decides from what a node knows: `cached` is what a look-up found, `recent` the changes that the cluster replicates,
/// and `now_ms` the wall clock in milliseconds since the epoch. `database_away` accepts a look-up that may have missed
/// changes of tiers and expiries, but never one that may have missed the end of a key.
///
/// A replicated change is newer than a look-up at a server that had not applied it, and takes precedence. So a replica
/// that lags can neither revive a revoked key nor hide a new one.
pub fn resolve(
    hash: &KeyHash,
    cached: Option<&CachedKey>,
    recent: &RecentChanges,
    now_ms: u64,
    database_away: bool,
) -> KeyVerdict {
    let seen = cached.map_or(Revision::NONE, |cached| cached.revision);
    let (key, looked_up_user) = match recent.key(hash) {
        Some(RowVersion { revision, row: None }) if *revision > seen => return KeyVerdict::Unknown,
        Some(RowVersion { revision, row: Some(key) }) if *revision > seen => {
            let user = cached.and_then(|cached| cached.found.as_ref()).map(|(_, user)| user);
            (key, user.filter(|user| user.user == key.user))
        }
        _ => {
            // A change that is no longer remembered may be newer than the look-up.
            let known = seen >= recent.forgotten_ended() && (database_away || seen >= recent.forgotten());
            let Some(cached) = cached.filter(|_| known) else { return KeyVerdict::LookUp };
            let Some((key, user)) = &cached.found else { return KeyVerdict::Unknown };
            (key, Some(user))
        }
    };
    if key.revoked_at_ms.is_some() {
        return KeyVerdict::Revoked;
    }
    if key.expires_at_ms.is_some_and(|expires| expires <= now_ms) {
        return KeyVerdict::Expired;
    }
    let user = match recent.user(&key.user) {
        Some(RowVersion { revision, row }) if *revision > seen => row.as_ref(),
        _ if key.tier.is_some() && looked_up_user.is_none() => None,
        _ => match looked_up_user {
            Some(user) => Some(user),
            None => return KeyVerdict::LookUp,
        },
    };
    let tier = key.tier.clone().or_else(|| user.and_then(|user| user.tier.clone()));
    KeyVerdict::Valid(Owner { user: key.user.clone(), tier, key_id: key.key_id.clone() })
}
