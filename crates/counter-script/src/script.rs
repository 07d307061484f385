//! The scripts that run in Redis.
//!
//! The counter script is one text, assembled from the files of `lua/`. Each file is about one subject. Where it
//! follows a file of `limiter::counter`, it names that file at its top. The constants are taken from the Rust code,
//! so no number is written twice.
//!
//! ```text
//! head             reads the batch
//! load_part        a function, called when the first item needs a part
//!   lane
//!   shared           merges counts of other regions on the compact path
//!   general, replay_guard, grants
//!   load_window      a function, called for the first window
//!     cell, grid, hit_log, usage, share, escrow, debts, window_record, window, import, transfer
//!   load_bucket      a function, called for the first bucket
//!     ticks, bucket
//!   dispatch
//! compact          serves most items
//! main             serves the items
//! ```
//!
//! Lua creates the closures of a script anew on each call. Those of the general path would cost a third of most
//! batches, which need none of them. That is why the general path is the body of a function that the script calls only
//! if an item needs it. The functions also keep the script away from two limits of Lua 5.1: 200 local variables in a
//! function, and 60 variables of enclosing functions that a function may use. Constants are no variables: their values
//! are written in place of their names.

use std::collections::HashMap;
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
    BATCH_LATE, BATCH_RAN, BUCKET_DONE, COMPACT_DENIED, COMPACT_GRANTED, COMPACT_RETURNED, ESCROW_DONE, FAILED, GIVEN,
    GLOBAL_ESCROW, GLOBAL_SHARE, HAS_ASK, HAS_OTHERS, HAS_REGIONS, HAS_RETURN, HAS_SEEN, IMPORT, IMPORTED, KIND_BUCKET,
    KIND_CALENDAR, KIND_COMPACT, KIND_GIVE, KIND_SLIDING, KIND_TAKE, OTHER_FORMAT, OTHER_SIZE, OUT_OF_BOUNDS,
    RECORD_BUCKET, RECORD_FULL, RECORD_GUARDED, RECORD_PLAIN, RECORD_SHARED, RECORD_SINGLE, RECORD_TINY, SPENDING_LOST,
    TAKEN, U32_RANGE, VERSION, WINDOW_DONE, WITH_OTHERS,
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

/// Pairs the names of Rust constants with their values in Lua.
macro_rules! constants {
    ($($name:ident),* $(,)?) => {
        HashMap::from([$((stringify!($name), $name.to_string())),*])
    };
}

/// A file of `lua/`.
macro_rules! file {
    ($name:literal) => {
        concat!("-- ", $name, ".lua\n", include_str!(concat!("../lua/", $name, ".lua")))
    };
}

/// Returns a Lua function that has `parts` as its body.
fn function(head: &str, parts: &[&str]) -> String {
    format!("local function {head}\n{}end\n", parts.concat())
}

/// Returns the counter script.
fn counters() -> String {
    with_constants(&assembled(), &CONSTANTS)
}

/// Assembles the counter script, with the names of the constants.
fn assembled() -> String {
    let window = [
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
    ];
    let window = function("load_window()", &window);
    let bucket = function("load_bucket()", &[file!("ticks"), file!("bucket")]);
    let parts = [
        file!("lane"),
        "if part == 'shared' then\n",
        file!("shared"),
        "end\n",
        file!("general"),
        file!("replay_guard"),
        file!("grants"),
        &window,
        &bucket,
        file!("dispatch"),
    ];
    let load = function("load_part(part)", &parts);
    [file!("head"), &load, file!("compact"), file!("main")].concat()
}

static CONSTANTS: LazyLock<HashMap<&str, String>> = LazyLock::new(|| {
    constants! {
        BATCH_LATE, BATCH_RAN, BUCKET_DONE, COMPACT_DENIED, COMPACT_GRANTED, COMPACT_RETURNED, ESCROW_DONE, FAILED,
        FIRST_NOTE, FLOOR, FORECAST_PARTS, GIVEN, GLOBAL_ESCROW, GLOBAL_SHARE, HAS_ASK, HAS_OTHERS, HAS_REGIONS, HAS_RETURN,
        HAS_SEEN, IMPORT, IMPORTED, KEPT_AFTER_CELL_MS, KIND_BUCKET, KIND_CALENDAR, KIND_COMPACT, KIND_GIVE, KIND_SLIDING,
        KIND_TAKE, LANE_TIME_STEP_MS, MAX_COUNT, MAX_DEBTS, MAX_ENTRIES, MAX_FORECAST, MAX_FOREIGN_ENTRIES,
        MAX_HOLDERS, MAX_LIMIT, MAX_LOG, MAX_LOGGED_HITS, MAX_LOGGED_LIMIT, MAX_NOTES, MAX_OVERDRAFT_HITS,
        MAX_OVERDRAFT_US, MAX_REGIONS, MAX_TRANSFER_CELLS, NOTE_CONFIRMED, NOTE_FENCED, NOTE_RIGHTS,
        NOTICE_TOLERANCE_MS, OTHER_FORMAT, OTHER_SIZE, OUT_OF_BOUNDS, RECORD_BUCKET, RECORD_FULL, RECORD_GUARDED,
        RECORD_PLAIN, RECORD_SHARED, RECORD_SINGLE, RECORD_TINY, REPLICATION_MARKS, SPENDING_LOST, TAKEN,
        TICKS_PER_MICRO, U32_RANGE, VERSION, WEIGHT_ONE, WINDOW_DONE, WITH_OTHERS,
    }
});

/// Writes the value of each constant in place of its name. A local variable would cost more: each function that uses
/// it takes time to find it when the script creates that function.
fn with_constants(text: &str, constants: &HashMap<&str, String>) -> String {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut replaced = String::with_capacity(text.len());
    for line in text.lines().filter(|line| !line.trim_start().starts_with("--")) {
        // A word, or what is between two words.
        for part in line.as_bytes().chunk_by(|a, b| is_word(char::from(*a)) == is_word(char::from(*b))) {
            let part = String::from_utf8_lossy(part);
            replaced.push_str(constants.get(&*part).map_or(&*part, String::as_str));
        }
        replaced.push('\n');
    }
    replaced
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    /// Returns the words in capital letters of a line of Lua, other than those that Redis defines. Ignores strings.
    fn capital_words(line: &str) -> impl Iterator<Item = &str> {
        let outside = line.split('\'').step_by(2);
        outside.flat_map(|part| part.split(|c: char| !c.is_ascii_alphanumeric() && c != '_')).filter(|word| {
            word.len() > 1
                && word.chars().all(|c| c.is_ascii_uppercase() || c == '_')
                && !["KEYS", "ARGV"].contains(word)
        })
    }

    #[test]
    fn every_constant_of_the_counter_script_has_a_value() {
        for line in COUNTERS.text().lines() {
            assert_eq!(capital_words(line).next(), None, "in {line:?}");
        }
        assert!(COUNTERS.text().contains(&format!("if version ~= {VERSION} then")));
    }

    #[test]
    fn every_constant_is_used() {
        let names = CONSTANTS.keys().map(|name| (*name, format!("<{name}>"))).collect();
        let replaced = with_constants(&assembled(), &names);
        let unused: HashSet<&str> =
            CONSTANTS.keys().copied().filter(|name| !replaced.contains(&format!("<{name}>"))).collect();
        assert_eq!(unused, HashSet::new());
    }
}
