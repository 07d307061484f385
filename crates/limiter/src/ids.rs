//! Identifiers. Each is a type of its own, so that one is never taken for another.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::hash::{fnv1a, mix};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($of:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub $of);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// Identifies a waiting check within its shard. It is never reused, even after a panic.
    Ticket(u64)
}
id! {
    /// A lane of the counter store: the counters of one hash tag. It has its own queue and at most one batch in flight.
    LaneId(u16)
}
id! {
    /// The place of a resident key in its shard. It is reused after the key is evicted.
    SlotId(u32)
}
id! {
    /// Identifies one shard of a region; below 2^48. It is random, so no other shard has it or had it. A shard that
    /// follows after a panic has a new one.
    HolderId(u64)
}
id! {
    /// Identifies a batch of one holder; below 2^48. A holder numbers its batches in the order in which it sends them.
    BatchId(u64)
}
id! {
    /// One lifetime of a counter in its store. A new one begins whenever the store may have lost counts. The number is
    /// below 2^48. The 16 bits above it name the region that it belongs to; they are 0 for the store's own region.
    Incarnation(u64)
}
id! {
    /// Names a region in counters: see [`RegionNumber::of`]. 0 is the store's own region.
    RegionNumber(u16)
}
id! {
    /// Identifies the hits that one holder admitted of one key during one outage; below 2^48. It is random and never
    /// reused.
    DebtId(u64)
}

/// Generates identifiers below 2^48 that are unique with high probability: SplitMix64 (Steele, Lea, Flood 2014).
#[derive(Clone, Debug)]
pub(crate) struct IdGenerator(u64);

impl IdGenerator {
    /// `seed` must be random.
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Returns the next identifier, never 0.
    pub fn next_id(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        (mix(self.0) >> 16).max(1)
    }
}

impl Incarnation {
    /// The bits of the number. The bits above them are those of the region.
    const BITS: u32 = 48;

    /// The region that it belongs to: [`RegionNumber::OWN`], or another region.
    pub const fn region(self) -> RegionNumber {
        RegionNumber((self.0 >> Self::BITS) as u16)
    }

    /// The number without the region.
    pub const fn number(self) -> u64 {
        self.0 & ((1 << Self::BITS) - 1)
    }

    /// The same number in another region.
    #[must_use]
    pub const fn of_region(self, region: RegionNumber) -> Self {
        Self((region.0 as u64) << Self::BITS | self.number())
    }
}

impl RegionNumber {
    /// How a store calls its own region.
    pub const OWN: Self = Self(0);

    /// The number of the region with this name: the FNV-1a hash of the name, folded to 16 bits, and never 0. Two names
    /// may have the same number. Such regions cannot count together.
    pub fn of(name: &str) -> Self {
        let hash = fnv1a(name.bytes());
        let folded = hash ^ hash >> 32;
        Self(((folded ^ folded >> 16) as u16).max(1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_the_upper_48_bits_of_splitmix64_and_never_0() {
        let mut ids = IdGenerator::new(1_234_567);
        // The first numbers that SplitMix64 generates from this seed.
        for number in [6_457_827_717_110_365_317_u64, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423] {
            assert_eq!(ids.next_id(), number >> 16);
        }
        // From this seed, it generates 0 first.
        assert_eq!(IdGenerator::new(0x61c8_8646_80b5_83eb).next_id(), 1);
    }

    #[test]
    fn a_region_has_the_same_number_in_all_versions_and_never_that_of_the_own_region() {
        for (name, number) in [("eu", 53_311), ("us", 24_124), ("eu-west-1", 59_334)] {
            assert_eq!(RegionNumber::of(name), RegionNumber(number), "{name}");
        }
        // The hash of this name folds to 0.
        assert_eq!(RegionNumber::of("r84315"), RegionNumber(1));
    }
}
