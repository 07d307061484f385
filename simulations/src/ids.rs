//! Identifiers of the parts of a simulation. Each is a type of its own, so that one is never taken for another.

use std::fmt;

/// Microseconds since the simulation began.
pub type Instant = u64;

macro_rules! id {
    ($(#[$doc:meta])* $name:ident($of:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub $of);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

id! {
    /// The index of a region in the world.
    RegionIndex(usize)
}
id! {
    /// The index of a node in its region.
    NodeIndex(usize)
}
id! {
    /// The index of a core among all cores of its region. The cores of one node follow one another.
    CoreIndex(usize)
}
id! {
    /// The index of a primary in its region.
    PrimaryIndex(usize)
}
id! {
    /// The number of times that a core was killed: a restarted core shares no memory with its earlier boots.
    Boot(u32)
}
id! {
    /// The index of a check in the history.
    CheckIndex(usize)
}
id! {
    /// The index of a fault in the plan.
    FaultIndex(usize)
}

impl RegionIndex {
    /// The name by which nodes know the region.
    pub fn name(self) -> String {
        format!("region-{self}")
    }
}

/// A node of some region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId {
    pub region: RegionIndex,
    pub node: NodeIndex,
}

/// A core of some region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CoreId {
    pub region: RegionIndex,
    pub core: CoreIndex,
}

/// Writes the index in the region only. Lines of a world with several regions begin with the region.
impl fmt::Display for CoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.core.fmt(f)
    }
}

/// A primary of some region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrimaryId {
    pub region: RegionIndex,
    pub primary: PrimaryIndex,
}

/// A counter of a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Counter {
    pub region: RegionIndex,
    /// The index of its limit among all limits.
    pub limit: usize,
    /// The length of its window, in milliseconds. With another one, it is another counter. 0 for a calendar.
    pub window_ms: u64,
    /// The number of what an override tests that has its own counter. `None` if it is the counter of the limit.
    pub apart: Option<usize>,
    /// `None` if all users share the counter.
    pub user: Option<u32>,
}

impl Counter {
    /// Returns the counter in another region.
    pub const fn in_region(self, region: RegionIndex) -> Self {
        Self { region, ..self }
    }

    /// Returns `user 3` or `all`.
    pub fn owner(&self) -> String {
        self.user.map_or_else(|| "all".to_owned(), |user| format!("user {user}"))
    }
}
