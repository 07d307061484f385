//! The scenarios: which kinds of faults each draws from.

use super::faults::{self, Draw};

/// Which faults there may be, and what else is out of the ordinary.
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
    Memory,
    Migration,
    Buckets,
    Crowded,
    Suspended,
    Replaced,
    Everything,
}

impl Scenario {
    pub const ALL: [Self; 16] = [
        Self::Calm,
        Self::Network,
        Self::Stall,
        Self::Outage,
        Self::Failover,
        Self::Forgetting,
        Self::Crash,
        Self::Clock,
        Self::Edits,
        Self::Memory,
        Self::Migration,
        Self::Buckets,
        Self::Crowded,
        Self::Suspended,
        Self::Replaced,
        Self::Everything,
    ];

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
            Self::Memory => "memory",
            Self::Migration => "migration",
            Self::Buckets => "buckets",
            Self::Crowded => "crowded",
            Self::Suspended => "suspended",
            Self::Replaced => "replaced",
            Self::Everything => "everything",
        }
    }

    pub const fn about(self) -> &'static str {
        match self {
            Self::Calm => "nothing goes wrong",
            Self::Network => "batches and answers are slow, lost, late, or come twice",
            Self::Stall => "primaries are stopped, and go on",
            Self::Outage => "primaries are stopped, dead, full or cut off, and nodes come and go meanwhile",
            Self::Failover => "replicas take over that are behind, at once or after a while",
            Self::Forgetting => "primaries forget everything, some keys, or what they wrote last",
            Self::Crash => "nodes are killed, or stopped for a while",
            Self::Clock => "the clocks of primaries are set forward and back",
            Self::Edits => "rules change under way",
            Self::Memory => "there are more keys than nodes have room for",
            Self::Migration => "keys move from one primary to another",
            Self::Buckets => "two large buckets in a check, far from their primaries, which come and go",
            Self::Crowded => "tens of cores, and many outages and failovers in one window",
            Self::Suspended => "machines of nodes are suspended: their monotonic clocks stand still",
            Self::Replaced => "primaries are replaced, and go on or wake beside the new ones, while rules change",
            Self::Everything => "all of it",
        }
    }

    /// What may go wrong.
    pub(super) fn faults(self) -> &'static [Draw] {
        match self {
            Self::Calm | Self::Edits | Self::Memory => &[],
            Self::Network => &[faults::loss, faults::slow, faults::repeat, faults::cut],
            Self::Stall => &[faults::stall, faults::stall, faults::slow],
            Self::Outage => &[faults::stall, faults::down, faults::cut, faults::full, faults::crash],
            Self::Failover => &[faults::failover, faults::failover, faults::split],
            Self::Forgetting => &[faults::flush, faults::evict, faults::amnesia],
            Self::Crash => &[faults::crash, faults::crash, faults::pause],
            Self::Clock => &[faults::leap],
            Self::Migration => &[faults::relocation],
            Self::Buckets => &[faults::far, faults::far, faults::down],
            Self::Crowded => &[faults::down, faults::stall, faults::failover, faults::flush, faults::loss],
            Self::Suspended => &[faults::suspend, faults::suspend, faults::pause],
            Self::Replaced => &[faults::switch, faults::switch, faults::switch, faults::suspend],
            Self::Everything => &[
                faults::stall,
                faults::down,
                faults::failover,
                faults::split,
                faults::flush,
                faults::evict,
                faults::full,
                faults::cut,
                faults::loss,
                faults::slow,
                faults::repeat,
                faults::crash,
                faults::pause,
                faults::leap,
                faults::amnesia,
                faults::relocation,
                faults::suspend,
                faults::switch,
            ],
        }
    }
}
