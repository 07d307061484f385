//! The scenarios, and the faults from which each one chooses at random.

use crate::faults::draw::{self, DrawFault};

/// A kind of simulation: which faults occur, and what else differs, such as the load and the size of the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    Calm,
    Network,
    Stall,
    Outage,
    Failover,
    Forgetting,
    Crash,
    Clock,
    Edits,
    Books,
    Memory,
    Migration,
    Buckets,
    Crowded,
    Suspended,
    Replaced,
    Everything,
    Hop,
    Partition,
    Regions,
    Rebuilt,
    Rates,
    Escrow,
    Demand,
    Handover,
}

impl Scenario {
    pub const ALL: [Self; 25] = [
        Self::Calm,
        Self::Network,
        Self::Stall,
        Self::Outage,
        Self::Failover,
        Self::Forgetting,
        Self::Crash,
        Self::Clock,
        Self::Edits,
        Self::Books,
        Self::Memory,
        Self::Migration,
        Self::Buckets,
        Self::Crowded,
        Self::Suspended,
        Self::Replaced,
        Self::Everything,
        Self::Hop,
        Self::Partition,
        Self::Regions,
        Self::Rebuilt,
        Self::Rates,
        Self::Escrow,
        Self::Demand,
        Self::Handover,
    ];

    /// The name on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Calm => "calm",
            Self::Network => "network",
            Self::Stall => "stall",
            Self::Outage => "outage",
            Self::Failover => "failover",
            Self::Forgetting => "forgetting",
            Self::Crash => "crash",
            Self::Clock => "clock",
            Self::Edits => "edits",
            Self::Books => "books",
            Self::Memory => "memory",
            Self::Migration => "migration",
            Self::Buckets => "buckets",
            Self::Crowded => "crowded",
            Self::Suspended => "suspended",
            Self::Replaced => "replaced",
            Self::Everything => "everything",
            Self::Hop => "hop",
            Self::Partition => "partition",
            Self::Regions => "regions",
            Self::Rebuilt => "rebuilt",
            Self::Rates => "rates",
            Self::Escrow => "escrow",
            Self::Demand => "demand",
            Self::Handover => "handover",
        }
    }

    /// A one-line description.
    pub const fn about(self) -> &'static str {
        match self {
            Self::Calm => "no faults",
            Self::Network => "batches and replies are slow, lost or late, or arrive twice",
            Self::Stall => "primaries are paused, and continue later",
            Self::Outage => "primaries are paused, dead, out of memory or cut off, while nodes crash and restart",
            Self::Failover => "replicas take over without the last writes, at once or after a while",
            Self::Forgetting => "primaries lose all their data, some keys or their last writes",
            Self::Crash => "nodes are killed, or paused for a while",
            Self::Clock => "the clocks of primaries are set forward and back",
            Self::Edits => "the rules change while checks are in progress",
            Self::Books => {
                "whole rule books, which change: several limits per descriptor, overrides, replaced and shadow limits"
            }
            Self::Memory => "there are more keys than fit into the memory of a node",
            Self::Migration => "keys move from one primary to another",
            Self::Buckets => {
                "a check needs two large buckets, whose primaries have a high latency and are sometimes dead"
            }
            Self::Crowded => "tens of cores, with many outages and failovers in one window",
            Self::Suspended => "machines of nodes are suspended, and their monotonic clocks stand still",
            Self::Replaced => "primaries are replaced while the rules change, and the old servers continue",
            Self::Everything => "the faults of all scenarios with one region",
            Self::Hop => "users who are denied in one region ask another one at once",
            Self::Partition => "links between regions are cut, also one way, or lose, repeat and delay messages",
            Self::Rebuilt => {
                "several regions, whose replicas take over without the last writes, or which lose all their data"
            }
            Self::Escrow => "regions move rights, while links are cut, servers forget and clocks leap",
            Self::Handover => "regions move many rights, while replicas without the last ones take over",
            Self::Demand => "regions move rights, and the demand is even, skewed or moves from region to region",
            Self::Rates => "a user sends checks at a random rate in each region",
            Self::Regions => "several regions with the faults of all scenarios, cut links, and whole regions that die",
        }
    }

    /// True if there are several regions.
    pub const fn has_regions(self) -> bool {
        matches!(self, Self::Hop | Self::Partition | Self::Regions | Self::Rebuilt | Self::Rates) || self.has_escrow()
    }

    /// True if some limits are under `strategy: escrow`.
    pub const fn has_escrow(self) -> bool {
        matches!(self, Self::Escrow | Self::Demand | Self::Handover)
    }

    /// The faults from which a seed chooses at random. A fault that is listed twice is chosen more often.
    pub fn faults(self) -> &'static [DrawFault] {
        match self {
            Self::Calm | Self::Edits | Self::Memory | Self::Hop | Self::Rates | Self::Demand => &[],
            Self::Partition => &[draw::cut_regions, draw::cut_regions, draw::cut_regions_one_way, draw::lossy_link],
            Self::Books => &[draw::slow, draw::stall, draw::failover, draw::crash, draw::loss],
            Self::Network => &[draw::loss, draw::slow, draw::repeat, draw::cut],
            Self::Stall => &[draw::stall, draw::stall, draw::slow],
            Self::Outage => &[draw::stall, draw::down, draw::cut, draw::full, draw::crash],
            Self::Failover => &[draw::failover, draw::failover, draw::split],
            Self::Forgetting => &[draw::flush, draw::evict, draw::down_with_loss],
            Self::Crash => &[draw::crash, draw::crash, draw::pause],
            Self::Clock => &[draw::clock_jump],
            Self::Migration => &[draw::lane_move],
            Self::Buckets => &[draw::far, draw::far, draw::down],
            Self::Crowded => &[draw::down, draw::stall, draw::failover, draw::flush, draw::loss],
            Self::Suspended => &[draw::suspend, draw::suspend, draw::pause],
            Self::Replaced => &[draw::replacement, draw::replacement, draw::replacement, draw::suspend],
            Self::Everything => &[
                draw::stall,
                draw::down,
                draw::failover,
                draw::split,
                draw::flush,
                draw::evict,
                draw::full,
                draw::cut,
                draw::loss,
                draw::slow,
                draw::repeat,
                draw::crash,
                draw::pause,
                draw::clock_jump,
                draw::down_with_loss,
                draw::lane_move,
                draw::suspend,
                draw::replacement,
            ],
            Self::Handover => {
                &[draw::failover, draw::failover, draw::down_with_loss, draw::flush, draw::region_is_rebuilt]
            }
            Self::Escrow => &[
                draw::failover,
                draw::failover,
                draw::split,
                draw::down_with_loss,
                draw::replacement,
                draw::flush,
                draw::region_dies,
                draw::region_is_rebuilt,
                draw::crash,
                draw::stall,
                draw::loss,
                draw::repeat,
                draw::clock_jump,
                draw::cut_regions,
                draw::cut_regions,
                draw::cut_regions_one_way,
                draw::lossy_link,
                draw::lossy_link,
            ],
            Self::Rebuilt => &[
                draw::failover,
                draw::failover,
                draw::split,
                draw::down_with_loss,
                draw::replacement,
                draw::region_is_rebuilt,
                draw::region_is_rebuilt,
                draw::cut_regions,
            ],
            Self::Regions => &[
                draw::stall,
                draw::down,
                draw::failover,
                draw::split,
                draw::flush,
                draw::evict,
                draw::full,
                draw::cut,
                draw::loss,
                draw::slow,
                draw::repeat,
                draw::crash,
                draw::pause,
                draw::clock_jump,
                draw::down_with_loss,
                draw::lane_move,
                draw::suspend,
                draw::replacement,
                draw::region_dies,
                draw::region_dies,
                draw::region_dies,
                draw::cut_regions,
                draw::cut_regions,
                draw::cut_regions,
                draw::cut_regions_one_way,
                draw::cut_regions_one_way,
                draw::lossy_link,
                draw::lossy_link,
            ],
        }
    }
}
