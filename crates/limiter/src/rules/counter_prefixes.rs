//! The beginnings of the names of all counters of a book.
//!
//! They have 48 bits. Whoever may write a limit can try names until its counters begin as those of another limit do,
//! and would then use up that limit. Therefore a book in which two limits have one prefix is invalid. So the prefix
//! needs neither a secret nor more bits, and running regions keep their counters.

use super::key_name::prefix;
use super::rule_map::RuleMap;

/// The prefixes of all counters of a book.
#[derive(Debug, Default)]
pub struct CounterPrefixes(RuleMap<Box<[u8]>, ([u8; 32], Owner)>);

/// The positions of a domain, and of a limit in it.
pub type Owner = (usize, usize);

impl CounterPrefixes {
    /// Adds the counters with this digest.
    ///
    /// # Errors
    /// The limit whose other counters have the same prefix.
    pub fn add(&mut self, digest: [u8; 32], owner: Owner) -> Result<(), Owner> {
        let (known, other) = *self.0.entry(prefix(&digest).into()).or_insert((digest, owner));
        if known == digest { Ok(()) } else { Err(other) }
    }

    /// True if a limit has it.
    pub fn contains(&self, prefix: &[u8]) -> bool {
        self.0.contains_key(prefix)
    }
}
