//! Reads sections and values of settings that have bounds.

use crate::yaml::decode::{Errors, Fields, duration_ms, number};
use crate::yaml::tree::Node;
use limiter::rules::Path;

/// Reads a section. An absent section reads as an empty one.
pub(super) fn section<T>(
    node: Option<&Node>,
    path: &Path,
    errors: &mut Errors,
    read: impl FnOnce(&mut Fields<'_>, &Path, &mut Errors) -> T,
) -> T {
    let empty = Node::empty();
    let mut fields = Fields::new(node.unwrap_or(&empty), path.clone(), errors);
    let value = read(&mut fields, path, errors);
    fields.finish(errors);
    value
}

/// Reads a whole number.
pub(super) fn within(
    node: &Node,
    path: &Path,
    range: std::ops::RangeInclusive<u64>,
    errors: &mut Errors,
) -> Option<u64> {
    let value = number(node, path, errors)?;
    if range.contains(&value) {
        return Some(value);
    }
    errors.add(path, format!("expected {} to {}", range.start(), range.end()));
    None
}

/// Reads a length of time, in milliseconds.
pub(super) fn length(
    node: &Node,
    path: &Path,
    range: std::ops::RangeInclusive<u64>,
    errors: &mut Errors,
) -> Option<u64> {
    let value = duration_ms(node, path, errors)?;
    if range.contains(&value) {
        return Some(value);
    }
    errors.add(path, format!("expected {}ms to {}ms", range.start(), range.end()));
    None
}

/// A count that fits this machine.
pub(super) fn size(value: u64) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}
