//! Hash tags group the keys of a region, so that one script call carries many keys of one slot. The counters of one
//! hash tag are a lane.
//!
//! All slots are divided into `n` equal parts, one for each of `n` tags. Tag `i` holds the counters whose own slot
//! (CRC-16 of the name, as in Redis Cluster) is in part `i`. The tag is a text whose slot is in the middle of that
//! part. Counters are therefore spread over the primaries much as they would be without tags.

use limiter::LaneId;

/// The number of slots of a Redis Cluster.
pub const SLOTS: u16 = 16_384;

/// Returns the slot of a key, as Redis Cluster computes it: CRC-16/XMODEM of the text in its braces if it has a hash
/// tag, else of all of it.
pub fn slot(key: &[u8]) -> u16 {
    let tag = key.iter().position(|b| *b == b'{').and_then(|open| {
        let rest = &key[open + 1..];
        rest.iter().position(|b| *b == b'}').filter(|close| *close > 0).map(|close| &rest[..close])
    });
    crc16(tag.unwrap_or(key)) % SLOTS
}

/// CRC-16/XMODEM.
fn crc16(text: &[u8]) -> u16 {
    text.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ u16::from(*byte) << 8, |crc, _| if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 })
    })
}

/// The characters of tags.
const CHARACTERS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";

/// The tags of a region.
#[derive(Clone, Debug)]
pub struct Tags {
    /// The text and the slot of each tag, in order.
    each: Vec<(String, u16)>,
}

impl Tags {
    /// Creates `count` tags, 1 to 1,024.
    pub fn new(count: u16) -> Self {
        let part = f64::from(SLOTS) / f64::from(count.max(1));
        // From a slot to the middle of the tag's part.
        let distance = |tag: u16, slot: u16| (f64::from(slot) - (f64::from(tag) + 0.5) * part).abs();
        // A tag is the text of two characters, or of three if there are many tags, whose slot is nearest to the middle.
        let longer = |text: &String| CHARACTERS.iter().map(|c| format!("{text}{}", char::from(*c))).collect::<Vec<_>>();
        let mut texts = vec![String::new()];
        for _ in 0..if count > 64 { 3 } else { 2 } {
            texts = texts.iter().flat_map(longer).collect();
        }
        let texts: Vec<(String, u16)> = texts
            .into_iter()
            .map(|text| {
                let slot = slot(text.as_bytes());
                (text, slot)
            })
            .collect();
        let nearest = |tag: u16| texts.iter().min_by(|a, b| distance(tag, a.1).total_cmp(&distance(tag, b.1))).cloned();
        Self { each: (0..count.max(1)).filter_map(nearest).collect() }
    }

    /// Returns the number of tags.
    pub fn count(&self) -> u16 {
        u16::try_from(self.each.len()).unwrap_or(u16::MAX)
    }

    /// Returns the lane of the counter of this name.
    pub fn of(&self, name: &[u8]) -> LaneId {
        let tag = u32::from(slot(name)) * u32::from(self.count()) / u32::from(SLOTS);
        LaneId(u16::try_from(tag).unwrap_or(0))
    }

    /// Returns the text and the slot of every tag, in order.
    pub fn each(&self) -> impl Iterator<Item = (&str, u16)> {
        self.each.iter().map(|(text, slot)| (text.as_str(), *slot))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn slots_equal_those_of_redis_cluster() {
        // The test vector of the Redis Cluster specification, and replies of CLUSTER KEYSLOT.
        assert_eq!(crc16(b"123456789"), 0x31c3);
        for (key, expected) in [("foo", 12_182), ("{foo}bar", 12_182), ("a{foo}b{c}", 12_182), ("{}foo", 9500), ("", 0)]
        {
            assert_eq!(slot(key.as_bytes()), expected, "{key}");
        }
    }

    #[test]
    fn tags_differ_and_have_slots_in_their_parts() {
        for count in [1, 2, 3, 16, 32, 64, 65, 256, 1024] {
            let tags = Tags::new(count);
            assert_eq!(tags.count(), count);
            let texts: HashSet<&str> = tags.each().map(|(text, _)| text).collect();
            assert_eq!(texts.len(), usize::from(count), "{count} tags");
            let part = |slot: u16| u32::from(slot) * u32::from(count) / u32::from(SLOTS);
            assert!(tags.each().enumerate().all(|(at, (_, slot))| part(slot) as usize == at), "{count} tags");
        }
    }

    #[test]
    fn counters_are_spread_over_the_primaries_within_a_tenth() {
        let tags = Tags::new(32);
        let slots: Vec<u16> = tags.each().map(|(_, slot)| slot).collect();
        for primaries in [2, 3, 4, 5] {
            let mut counters = vec![0u32; primaries];
            for user in 0..1_000_000 {
                let slot = slots[usize::from(tags.of(format!("dR3_x9Zq/u{user}").as_bytes()).0)];
                counters[usize::from(slot) * primaries / usize::from(SLOTS)] += 1;
            }
            let fair = 1_000_000.0 / primaries as f64;
            let worst = counters.iter().map(|c| (f64::from(*c) / fair - 1.0).abs()).fold(0.0, f64::max);
            println!("{primaries} primaries: {counters:?}, worst {:.1} %", 100.0 * worst);
            assert!(worst < 0.10, "{counters:?}");
        }
    }
}
