//! The scripts that run in Redis, and the names that it gives them.

use std::sync::LazyLock;

use fred::util::sha1_hash;

/// A script and its SHA-1.
pub struct Script {
    pub text: &'static str,
    hash: LazyLock<String>,
}

impl Script {
    pub fn hash(&self) -> &str {
        &self.hash
    }
}

const COUNTERS_TEXT: &str = include_str!("script.lua");
const FENCE_TEXT: &str = include_str!("fence.lua");
const MEMBERS_TEXT: &str = include_str!("members.lua");

/// What a batch does: `limiter/counter.rs` in Lua.
pub static COUNTERS: Script = Script { text: COUNTERS_TEXT, hash: LazyLock::new(|| sha1_hash(COUNTERS_TEXT)) };
/// What tells a primary that it was replaced.
pub static FENCE: Script = Script { text: FENCE_TEXT, hash: LazyLock::new(|| sha1_hash(FENCE_TEXT)) };
/// A node's heartbeat.
pub static MEMBERS: Script = Script { text: MEMBERS_TEXT, hash: LazyLock::new(|| sha1_hash(MEMBERS_TEXT)) };
