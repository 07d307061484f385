//! The scripts that run in Redis.
//!
//! The counter script is one text, assembled from the files of `lua/`. Each file is about one subject. Where it follows
//! a file of `limiter::counter`, it names that file at its top. The constants are taken from the Rust code, so no
//! number is written twice.
//!
//! ```text
//! head             reads the batch
//! compact          serves most items
//! load_general     a function, called when the first item needs it
//!   general, replay_guard, grants
//!   load_window      a function, called for the first window
//!     cell, grid, hit_log, usage, share, escrow, debts, window_record, window, import, transfer
//!   load_bucket      a function, called for the first bucket
//!     ticks, bucket
//!   dispatch
//! main             serves the items
//! ```
//!
//! Lua creates the closures of a script anew on each call. Those of the general path would cost a third of most
//! batches, which need none of them. That is why the general path is the body of a function that the script calls only
//! if an item needs it. The functions also keep the script away from two limits of Lua 5.1: 200 local variables in a
//! function, and 60 variables of enclosing functions that a function may use. For the same reasons each group of
//! constants is defined in the function that uses it.

use std::fmt::Write;
use std::sync::{LazyLock, OnceLock};

use limiter::counter::{
    self, FIRST_NOTE, FORECAST_PARTS, KEPT_AFTER_CELL_MS, LANE_TIME_STEP_MS, MAX_COUNT, MAX_DEBTS, MAX_ENTRIES,
    MAX_FORECAST, MAX_FOREIGN_ENTRIES, MAX_HOLDERS, MAX_LIMIT, MAX_LOG, MAX_LOGGED_HITS, MAX_LOGGED_LIMIT, MAX_NOTES,
    MAX_OVERDRAFT_HITS, MAX_OVERDRAFT_US, MAX_REGIONS, MAX_TRANSFER_CELLS, NOTE_CONFIRMED, NOTE_FENCED, NOTE_RIGHTS,
    NOTICE_TOLERANCE_MS, REPLICATION_MARKS, TICKS_PER_MICRO, WEIGHT_ONE,
};
use sha1::{Digest as _, Sha1};

use crate::wire::codes::{
    BATCH_LATE, BATCH_RAN, BUCKET_DONE, COMPACT_GRANTED, COMPACT_RETURNED, ESCROW_DONE, FAILED, GIVEN, GLOBAL_ESCROW,
    GLOBAL_SHARE, HAS_ASK, HAS_REGIONS, HAS_RETURN, HAS_SEEN, IMPORT, IMPORTED, KIND_BUCKET, KIND_CALENDAR,
    KIND_COMPACT, KIND_GIVE, KIND_SLIDING, KIND_TAKE, OUT_OF_BOUNDS, RECORD_BUCKET, RECORD_FULL, RECORD_PLAIN,
    RECORD_SINGLE, RECORD_TINY, SPENDING_LOST, TAKEN, U32_RANGE, VERSION, WINDOW_DONE,
};

/// What a batch does: `limiter::counter::apply` in Lua.
pub static COUNTERS: Script = Script::assembled(counters);
/// Tells a primary that another server has replaced it.
pub static FENCE: Script = Script::new(include_str!("../lua/fence.lua"));

/// A script and its SHA-1.
pub struct Script {
    text: Text,
    hash: OnceLock<String>,
}

enum Text {
    Static(&'static str),
    /// Assembled when it is first used.
    Assembled(LazyLock<String>),
}

impl Script {
    /// Creates a script of a text that is known when the program is built.
    pub const fn new(text: &'static str) -> Self {
        Self { text: Text::Static(text), hash: OnceLock::new() }
    }

    const fn assembled(assemble: fn() -> String) -> Self {
        Self { text: Text::Assembled(LazyLock::new(assemble)), hash: OnceLock::new() }
    }

    /// Returns the text that Redis loads.
    pub fn text(&self) -> &str {
        match &self.text {
            Text::Static(text) => text,
            Text::Assembled(text) => text,
        }
    }

    /// Returns the SHA-1 of the text in hexadecimal digits, by which `EVALSHA` names it.
    pub fn hash(&self) -> &str {
        self.hash.get_or_init(|| {
            Sha1::digest(self.text()).iter().fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}");
                hex
            })
        })
    }
}

/// The incarnation that stands for all, as a number.
const FLOOR: u64 = counter::FLOOR.0;

/// Defines Rust constants as local variables of the same names in Lua.
macro_rules! constants {
    ($($name:ident),* $(,)?) => {
        [$(format!("local {} = {}\n", stringify!($name), $name)),*].concat()
    };
}

/// A file of `lua/`.
macro_rules! file {
    ($name:literal) => {
        concat!("-- ", $name, ".lua\n", include_str!(concat!("../lua/", $name, ".lua")))
    };
}

/// Returns a Lua function that has `parts` as its body.
fn function(name: &str, parts: &[&str]) -> String {
    format!("local function {name}()\n{}end\n", parts.concat())
}

/// Assembles the counter script.
fn counters() -> String {
    let window = function(
        "load_window",
        &[
            &constants! {
                WEIGHT_ONE, MAX_LIMIT, MAX_ENTRIES, MAX_FOREIGN_ENTRIES, MAX_REGIONS, MAX_DEBTS,
                MAX_LOG, MAX_LOGGED_HITS, RECORD_PLAIN, RECORD_FULL, KIND_SLIDING, KIND_CALENDAR,
                OUT_OF_BOUNDS, WINDOW_DONE, HAS_REGIONS, IMPORTED, NOTICE_TOLERANCE_MS, GLOBAL_SHARE, GLOBAL_ESCROW,
                ESCROW_DONE, GIVEN, TAKEN, SPENDING_LOST, MAX_NOTES, MAX_TRANSFER_CELLS,
                LANE_TIME_STEP_MS, KEPT_AFTER_CELL_MS,
                NOTE_CONFIRMED, NOTE_FENCED, NOTE_RIGHTS, FORECAST_PARTS, MAX_FORECAST,
            },
            file!("cell"),
            file!("grid"),
            file!("hit_log"),
            file!("usage"),
            file!("share"),
            file!("escrow"),
            file!("debts"),
            file!("window_record"),
            file!("window"),
            file!("import"),
            file!("transfer"),
        ],
    );
    let bucket = function(
        "load_bucket",
        &[
            &constants! {
                TICKS_PER_MICRO, MAX_OVERDRAFT_US, MAX_OVERDRAFT_HITS, RECORD_BUCKET, BUCKET_DONE,
            },
            file!("ticks"),
            file!("bucket"),
        ],
    );
    let general = function(
        "load_general",
        &[
            &constants! {
                MAX_HOLDERS, KIND_BUCKET, IMPORT, KIND_GIVE, KIND_TAKE,
            },
            file!("general"),
            file!("replay_guard"),
            file!("grants"),
            &window,
            &bucket,
            file!("dispatch"),
        ],
    );
    [
        &*constants! {
            VERSION, BATCH_LATE, BATCH_RAN, REPLICATION_MARKS, FLOOR, FIRST_NOTE, MAX_COUNT, KIND_COMPACT,
            HAS_SEEN, HAS_RETURN,
            HAS_ASK, FAILED, COMPACT_GRANTED, COMPACT_RETURNED, RECORD_TINY, RECORD_SINGLE, U32_RANGE,
            MAX_LOGGED_LIMIT,
        },
        file!("head"),
        file!("compact"),
        &general,
        file!("main"),
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Returns the names in capital letters of a line of Lua, other than those that Redis defines. Ignores strings and
    /// comments.
    fn constants_in(line: &str) -> impl Iterator<Item = &str> {
        let code = line.split("--").next().unwrap_or_default();
        let outside = code.split('\'').step_by(2);
        outside.flat_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')).filter(|word| {
            word.len() > 1
                && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
                && !["KEYS", "ARGV"].contains(word)
        })
    }

    #[test]
    fn every_constant_of_the_counter_script_is_defined_before_its_use() {
        let mut defined = HashSet::new();
        for line in COUNTERS.text().lines() {
            let definition = line.strip_prefix("local ").and_then(|rest| rest.split_once(" = "));
            match definition.filter(|(name, _)| name.chars().all(|c| c.is_ascii_uppercase() || c == '_')) {
                Some((name, _)) => assert!(defined.insert(name), "{name} is defined twice"),
                None => constants_in(line).for_each(|name| assert!(defined.contains(name), "{name} in {line:?}")),
            }
        }
        assert!(defined.contains("VERSION") && defined.contains("MAX_LIMIT"));
    }

    #[test]
    fn every_constant_of_the_counter_script_is_used() {
        let uses: Vec<&str> = COUNTERS.text().lines().flat_map(constants_in).collect();
        for name in &uses {
            assert!(uses.iter().filter(|other| *other == name).count() > 1, "{name} is not used");
        }
    }
}
