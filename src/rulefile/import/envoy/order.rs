//! Which entry takes a value. The reference service takes the entry with the value, else the first entry whose wildcard
//! fits, else the entry with the key alone. It never comes back to try another.

use super::read::{Entry, Pattern};

/// The entries beside `siblings[at]` that are tried before it and take some of its values, in the order in which they
/// are tried.
///
/// # Errors
/// The entry that takes all of them.
pub fn tried_before(siblings: &[Entry], at: usize) -> Result<Vec<&Entry>, &Entry> {
    let entry = &siblings[at];
    let prefix = match &entry.pattern {
        Pattern::Exact(_) => return Ok(Vec::new()),
        Pattern::Any => None,
        pattern => pattern.prefix(),
    };
    let same_key = || siblings.iter().enumerate().filter(|(_, other)| other.key == entry.key);
    let covered = prefix.unwrap_or_default();
    let mut before: Vec<&Entry> = same_key()
        .map(|(_, other)| other)
        .filter(|other| matches!(&other.pattern, Pattern::Exact(value) if value.starts_with(covered)))
        .collect();
    for (place, other) in same_key() {
        let Some(earlier) = other.pattern.prefix().filter(|_| prefix.is_none() || place < at) else { continue };
        if covered.starts_with(earlier) {
            return Err(other);
        }
        let is_reached = !before.iter().any(|other| other.pattern.prefix().is_some_and(|p| earlier.starts_with(p)));
        if earlier.starts_with(covered) && is_reached {
            before.push(other);
        }
    }
    Ok(before)
}
