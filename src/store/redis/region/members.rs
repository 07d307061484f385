//! The members of a region: one entry for each running process.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

/// A member is dropped after this many replies to heartbeats in a row that do not name it.
const GONE_AFTER_MISSES: u32 = 10;

/// The most members of a region.
pub const MAX_MEMBERS: u32 = 1000;
/// The most cores of a member. A text with more is none of ours, and would end all leases.
const MAX_CORES: u32 = 1024;
/// The most cores of a region that count: a thousand nodes of 64 cores each, and some more.
const MAX_HOLDERS: u32 = 65_536;

/// A process that uses the counters of the region. Its text in Redis is `node/boot/cores`, with `boot` in hexadecimal
/// digits. The text is part of the protocol between nodes of different versions.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Member {
    /// The name of the node.
    pub node: String,
    /// A random number that identifies the process.
    pub boot: u64,
    /// The cores of the process. Each may hold tokens.
    pub cores: u32,
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, boot, cores } = self;
        write!(f, "{node}/{boot:x}/{cores}")
    }
}

/// The text of a member is invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidMember;

impl FromStr for Member {
    type Err = InvalidMember;

    fn from_str(text: &str) -> Result<Self, InvalidMember> {
        let mut fields = text.rsplitn(3, '/');
        let (Some(cores), Some(boot), Some(node)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(InvalidMember);
        };
        let boot = u64::from_str_radix(boot, 16).map_err(|_| InvalidMember)?;
        let cores = cores.parse().ok().filter(|cores| (1..=MAX_CORES).contains(cores)).ok_or(InvalidMember)?;
        Ok(Self { node: node.to_owned(), boot, cores })
    }
}

/// The known members, each with the number of heartbeats since the last one that named it.
#[derive(Debug, Default)]
pub struct Members(HashMap<Member, u32>);

impl Members {
    /// Adds the members that a heartbeat `named`. A member that is not named stays for a while, because the store may
    /// have lost it. `count_misses` says whether members that are not named get a miss.
    pub fn update(&mut self, named: impl IntoIterator<Item = Member>, count_misses: bool) {
        self.0.values_mut().for_each(|missed| *missed += u32::from(count_misses));
        self.0.extend(named.into_iter().map(|member| (member, 0)));
        self.0.retain(|_, missed| *missed < GONE_AFTER_MISSES);
    }

    /// Returns the cores of all members, but not more than a region can have.
    pub fn total_cores(&self) -> u32 {
        self.0.keys().map(|member| member.cores).fold(0, u32::saturating_add).min(MAX_HOLDERS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(text: &str) -> Member {
        text.parse().unwrap()
    }

    #[test]
    fn the_text_in_redis_does_not_change() {
        let own = Member { node: "us-east-1".to_owned(), boot: 0xab01, cores: 16 };
        assert_eq!(own.to_string(), "us-east-1/ab01/16");
        assert_eq!(member("us-east-1/ab01/16"), own);
        assert_eq!(member("a/b/7/4").node, "a/b");
        for invalid in ["", "nonsense", "a/2", "a/x/2", "a/7/", "a/7/two", "a/7/0", "a/7/1025", "a/7/4294967295"] {
            assert_eq!(invalid.parse::<Member>(), Err(InvalidMember), "{invalid}");
        }
    }

    #[test]
    fn a_member_is_gone_after_enough_heartbeats_without_it() {
        let mut members = Members::default();
        members.update([member("a/a/2"), member("b/7/4")], true);
        assert_eq!(members.total_cores(), 6);
        members.update([member("a/a/2")], true);
        assert_eq!(members.total_cores(), 6, "the store may have lost b");
        for _ in 0..GONE_AFTER_MISSES {
            members.update([member("a/a/2")], false);
        }
        assert_eq!(members.total_cores(), 6, "only heartbeats that count make b a missed member");
        for _ in 0..GONE_AFTER_MISSES {
            members.update([member("a/a/2")], true);
        }
        assert_eq!(members.total_cores(), 2);
    }

    #[test]
    fn the_cores_of_all_members_have_a_bound() {
        let mut members = Members::default();
        members.update((1..=64).map(|boot| member(&format!("a/{boot:x}/1024"))), true);
        assert_eq!(members.total_cores(), 65_536);
        members.update([member("b/1/1")], true);
        assert_eq!(members.total_cores(), 65_536);
    }
}
