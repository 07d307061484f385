//! What a descriptor of a check asks.

use std::fmt;

use super::limit_set::LimitSet;

/// A descriptor of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    pub user: u32,
    /// The entry `tier`, if it has one.
    pub tier: Option<&'static str>,
    /// The entry `path`, if it has one.
    pub path: Option<&'static str>,
    pub hits: u32,
}

impl Asked {
    /// Returns a descriptor without a tier and a path.
    pub const fn of(user: u32, hits: u32) -> Self {
        Self { user, tier: None, path: None, hits }
    }

    /// Returns the entries of the descriptor, of a check that meets a limit set.
    pub fn entries(&self, set: LimitSet) -> Vec<(&'static str, String)> {
        let optional = [("tier", self.tier), ("path", self.path)];
        let optional = optional.into_iter().filter_map(|(key, value)| Some((key, value?.to_owned())));
        [("kind", set.name().to_owned()), ("user", self.user.to_string())].into_iter().chain(optional).collect()
    }
}

impl fmt::Display for Asked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { user, tier, path, hits } = self;
        write!(f, "user {user}")?;
        if let Some(tier) = tier {
            write!(f, " of tier {tier}")?;
        }
        if let Some(path) = path {
            write!(f, " at {path}")?;
        }
        write!(f, " asks for {hits} hits")
    }
}
