//! The settings of gossip between regions.

use std::fmt;

use crate::rng::Rng;

const MS: u64 = 1000;

/// The settings of gossip.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GossipSettings {
    /// A node tells another region what changed at most once in this time, in microseconds.
    pub interval_us: u64,
    /// A counter of which a region has used less than this many thousandths of the limit is not told.
    pub floor_thousandths: u32,
    /// A region that acknowledges nothing for so long is partitioned, in microseconds.
    pub partition_after_us: u64,
    /// About the most bytes of reports in one message.
    pub max_bytes: usize,
}

impl GossipSettings {
    /// Draws the settings.
    pub fn draw(rng: &mut Rng) -> Self {
        Self {
            interval_us: rng.pick(100, &[50, 200]) * MS,
            floor_thousandths: rng.pick(0, &[0, 10, 200]),
            partition_after_us: rng.pick(600, &[500, 1000]) * MS,
            max_bytes: rng.pick(1 << 20, &[1 << 20, 200]),
        }
    }
}

/// Draws the weight of each region.
pub fn draw_weights(rng: &mut Rng, count: usize) -> Vec<u32> {
    (0..count).map(|_| rng.pick(1, &[1, 2, 5])).collect()
}

impl fmt::Display for GossipSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { interval_us, floor_thousandths, partition_after_us, max_bytes } = self;
        write!(
            f,
            "  gossip   every {} ms from {floor_thousandths} thousandths of a limit, about {max_bytes} bytes in a message, partitioned after {} ms",
            interval_us / MS,
            partition_after_us / MS
        )
    }
}
