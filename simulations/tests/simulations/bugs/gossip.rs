//! Bugs of gossip: what nodes tell other regions, and what they do with what they hear.

use super::patch;
use simulations::bug_injector::{BugInjector, RegionAck, RegionMessage};
use simulations::ids::CoreId;
use simulations::scenario::Scenario;

/// The bugs of gossip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Bug {
    /// A node tells other regions nothing.
    TellsNothing,
    /// A node leaves the last counter out of every third message.
    LeavesOutReports,
    /// A node tells other regions nothing more after a while.
    StopsTelling,
    /// The hits of other regions do not count.
    IgnoresOtherRegions,
    /// A core does not learn that another region does not hear its node.
    IgnoresPartitions,
    /// During a partition, a region takes the whole for its part.
    IgnoresWeights,
    /// A node does not ask to be told everything again after its region's store forgot.
    NeverAsksAgain,
}

/// Each bug, the promise that it breaks, and the scenario that shows it.
pub const PLANTED: [(Bug, &str, Scenario); 7] = [
    (Bug::TellsNothing, "I3", Scenario::Hop),
    (Bug::IgnoresOtherRegions, "I3", Scenario::Hop),
    (Bug::IgnoresPartitions, "I3", Scenario::Partition),
    (Bug::IgnoresWeights, "I3", Scenario::Partition),
    (Bug::LeavesOutReports, "I7", Scenario::Hop),
    (Bug::StopsTelling, "I7", Scenario::Partition),
    (Bug::NeverAsksAgain, "I7", Scenario::Rebuilt),
];

/// Plants one bug.
pub struct Planted {
    bug: Bug,
}

impl Planted {
    pub const fn new(bug: Bug) -> Self {
        Self { bug }
    }
}

impl BugInjector for Planted {
    fn script(&mut self, text: String) -> String {
        match self.bug {
            Bug::IgnoresOtherRegions => patch(
                text,
                &[
                    (
                        "    local region = entry.region\n    if not",
                        "    local region = entry.region\n    if region == 0 and not",
                    ),
                    ("used = used + other_charged - other_returned", "used = used"),
                ],
            ),
            Bug::IgnoresWeights => patch(
                text,
                &[("local function part_of(share, hits)", "local function part_of(share, hits) do return hits end")],
            ),
            _ => text,
        }
    }

    fn alter_region_message(&mut self, message: &mut RegionMessage) {
        match self.bug {
            Bug::TellsNothing => message.reports.clear(),
            Bug::StopsTelling if message.number > 20 => message.reports.clear(),
            Bug::LeavesOutReports if message.number.is_multiple_of(3) => {
                message.reports.pop();
            }
            _ => {}
        }
    }

    fn alter_region_ack(&mut self, ack: &mut RegionAck) {
        if self.bug == Bug::NeverAsksAgain {
            ack.memory = 0;
        }
    }

    fn notices_partitions(&mut self, _: CoreId) -> bool {
        self.bug != Bug::IgnoresPartitions
    }
}
