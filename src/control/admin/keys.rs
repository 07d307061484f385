//! Makes API keys.

use std::io;

use plane::{KeyHash, KeyRow};

use crate::ports::admin::{AdminError, Secret};

/// Draws a random number of the operating system.
pub type Random = fn() -> io::Result<u64>;

/// How API keys begin.
const PREFIX: &str = "ak_live_";
/// The characters of a key by which people recognise it. They say 16 of its 192 bits.
const SHOWN: usize = PREFIX.len() + 4;

/// A new key that no row has yet.
pub struct MadeKey {
    pub row: KeyRow,
    pub api_key: Secret,
    /// The first characters of the key.
    pub prefix: String,
}

/// Makes a key of 192 random bits, and a name for it.
///
/// # Errors
/// When the system has no randomness.
pub fn make(
    random: Random,
    user: String,
    tier: Option<String>,
    expires_at_ms: Option<u64>,
) -> Result<MadeKey, AdminError> {
    let draw = || random().map_err(|error| AdminError::Internal(format!("no randomness: {error}")));
    let api_key = format!("{PREFIX}{:016x}{:016x}{:016x}", draw()?, draw()?, draw()?);
    let key_id = format!("key_{:016x}", draw()?);
    let hash = KeyHash::of(&api_key);
    let row = KeyRow { hash, key_id, user, tier, expires_at_ms, revoked_at_ms: None };
    let prefix = api_key.chars().take(SHOWN).collect();
    Ok(MadeKey { row, api_key: Secret(api_key), prefix })
}
