//! The bugs that tests plant. The nodes' code has no switch for them.

pub mod books;
pub mod escrow;
pub mod gossip;
pub mod in_a_region;

use simulations::bug_injector::BugInjector;

/// A bug.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bug {
    InARegion(in_a_region::Bug),
    Books(books::Bug),
    Gossip(gossip::Bug),
    Escrow(escrow::Bug),
}

impl Bug {
    pub fn plant(self) -> Box<dyn BugInjector> {
        match self {
            Self::InARegion(bug) => Box::new(in_a_region::Planted::new(bug)),
            Self::Books(bug) => Box::new(books::Planted::new(bug)),
            Self::Escrow(bug) => Box::new(escrow::Planted::new(bug)),
            Self::Gossip(bug) => Box::new(gossip::Planted::new(bug)),
        }
    }
}

fn patch(script: String, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(script, |script, (from, to)| {
        assert!(script.contains(from), "the script no longer has {from:?}");
        script.replace(from, to)
    })
}
