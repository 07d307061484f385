//! The scripts that run in Redis, and the names that it gives them.

use std::fmt::Write;
use std::sync::OnceLock;

use sha1::{Digest as _, Sha1};

/// A script and its SHA-1.
pub struct Script {
    pub text: &'static str,
    hash: OnceLock<String>,
}

impl Script {
    pub const fn new(text: &'static str) -> Self {
        Self { text, hash: OnceLock::new() }
    }

    /// The SHA-1 of the text in hexadecimal digits, by which `EVALSHA` names it.
    pub fn hash(&self) -> &str {
        self.hash.get_or_init(|| {
            Sha1::digest(self.text).iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            })
        })
    }
}

const COUNTERS_TEXT: &str = include_str!("../lua/script.lua");
const FENCE_TEXT: &str = include_str!("../lua/fence.lua");

/// What a batch does: `limiter::counter::apply` in Lua.
pub static COUNTERS: Script = Script::new(COUNTERS_TEXT);
/// Tells a primary that another server has replaced it.
pub static FENCE: Script = Script::new(FENCE_TEXT);
