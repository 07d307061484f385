//! The sets of limits that checks meet.

/// The limits that apply to a check. The entry `kind` in the check's descriptor selects the set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitSet {
    /// One or two limits with short windows or with buckets.
    Short,
    /// The first limit of [`Self::Short`] without the second.
    ShortOnly,
    /// A small limit for each user and a limit that all users share, both with windows that do not end.
    SharedPair,
    /// One limit for each user, with a window that does not end.
    PerUser,
}

impl LimitSet {
    /// The value of the entry `kind`; the names of the set's limits begin with it. A limit's name decides the lane of
    /// its counters, so another name would change the history of every seed.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Short => "brief",
            Self::ShortOnly => "lone",
            Self::SharedPair => "pair",
            Self::PerUser => "solo",
        }
    }
}
