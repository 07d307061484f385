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
}

impl RegionConstants {
    pub const fn new(tags: u16) -> Self {
        Self { version: wire::RECORD_VERSION, tags }
    }

    /// True if the text in Redis says the same constants.
    pub fn matches(&self, text: &str) -> bool {
        text == self.to_string()
    }
}

impl fmt::Display for RegionConstants {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, tags } = self;
        write!(f, "version={version} tags={tags} hash={HASH}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_in_redis_does_not_change() {
        let constants = RegionConstants::new(32);
        assert_eq!(constants.to_string(), "version=1 tags=32 hash=crc16");
        assert!(constants.matches("version=1 tags=32 hash=crc16"));
        assert!(!constants.matches("version=1 tags=16 hash=crc16"));
    }
}
