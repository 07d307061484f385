//! The constants that all nodes of a region must share to count together.

use std::fmt;

use counter_script::wire;

/// The hash function that assigns counters to hash tags.
const HASH: &str = "crc16";

/// The constants of one node. Its text in Redis is part of the protocol between nodes of different versions.
pub struct RegionConstants {
    /// The version of the records in Redis.
    version: u8,
    /// The number of hash tags.
    tags: u16,
    /// True if keys have only a hash of the values of checks.
    hash_keys: bool,
}

impl RegionConstants {
    pub const fn new(tags: u16, hash_keys: bool) -> Self {
        Self { version: wire::RECORD_VERSION, tags, hash_keys }
    }

    /// True if the text in Redis says the same constants.
    pub fn matches(&self, text: &str) -> bool {
        text == self.to_string()
    }
}

impl fmt::Display for RegionConstants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, tags, hash_keys } = self;
        write!(f, "version={version} tags={tags} hash={HASH}")?;
        // Regions that are older than this field have no text for it. They do not hash their keys.
        if *hash_keys { f.write_str(" hash_keys=true") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_in_redis_does_not_change() {
        let (clear, hashed) = ("version=1 tags=32 hash=crc16", "version=1 tags=32 hash=crc16 hash_keys=true");
        for (hash_keys, own, other) in [(false, clear, hashed), (true, hashed, clear)] {
            let constants = RegionConstants::new(32, hash_keys);
            assert_eq!(constants.to_string(), own);
            assert!(constants.matches(own) && !constants.matches(other));
            assert!(!constants.matches(&own.replace("32", "16")));
        }
    }
}
