//! The bugs that tests plant. The nodes' code has no switch for them.

mod gossip;
mod in_a_region;

use simulations::bug_injector::BugInjector;
use simulations::scenario::Scenario;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    InARegion(in_a_region::Bug),
    Gossip(gossip::Bug),
}

impl Bug {
    pub fn plant(self) -> Box<dyn BugInjector> {
        match self {
            Self::InARegion(bug) => Box::new(in_a_region::Planted::new(bug)),
            Self::Gossip(bug) => Box::new(gossip::Planted::new(bug)),
        }
    }
}

/// Returns each bug, the promise that it breaks, and the scenario that shows it.
pub fn planted() -> Vec<(Bug, &'static str, Scenario)> {
    let in_a_region = in_a_region::PLANTED.map(|(bug, promise, scenario)| (Bug::InARegion(bug), promise, scenario));
    let gossip = gossip::PLANTED.map(|(bug, promise, scenario)| (Bug::Gossip(bug), promise, scenario));
    in_a_region.into_iter().chain(gossip).collect()
}

fn patch(script: String, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(script, |script, (from, to)| {
        assert!(script.contains(from), "the script no longer has {from:?}");
        script.replace(from, to)
    })
}
