//! Request ids: from the caller, or made here.

use std::fmt::{self, Display, Formatter};
use std::sync::atomic::{AtomicU64, Ordering};

/// The header and the gRPC metadata of a request id.
pub const HEADER: &str = "x-request-id";
/// The longest id of a caller, in bytes.
const MAX_LENGTH: usize = 128;

/// The id of one request. A made id is formatted only where it is read.
#[derive(Clone, Copy, Debug)]
pub enum RequestId<'a> {
    Given(&'a str),
    Made { seed: u64, number: u64 },
}

impl RequestId<'_> {
    /// The displayed text, without the cost of formatting.
    pub fn to_text(self) -> String {
        match self {
            Self::Given(id) => id.to_owned(),
            Self::Made { seed, number } => {
                let digits =
                    [seed, number].into_iter().flat_map(|half| (0..16).rev().map(move |at| half >> (4 * at) & 15));
                digits.filter_map(|digit| char::from_digit(u32::try_from(digit).ok()?, 16)).collect()
            }
        }
    }
}

impl Display for RequestId<'_> {
    fn fmt(&self, out: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Given(id) => out.write_str(id),
            Self::Made { seed, number } => write!(out, "{seed:016x}{number:016x}"),
        }
    }
}

/// Returns true if an id may be written into a header and a log line.
pub fn is_valid(id: &str) -> bool {
    (1..=MAX_LENGTH).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())
}

/// Makes ids that are unique within a node and, by a random seed, between nodes.
#[derive(Debug)]
pub struct RequestIds {
    seed: u64,
    next: AtomicU64,
}

impl RequestIds {
    pub const fn new(seed: u64) -> Self {
        Self { seed, next: AtomicU64::new(0) }
    }

    /// Returns the id of the caller if it is valid, else a new one.
    pub fn take<'a>(&self, given: Option<&'a str>) -> RequestId<'a> {
        let make = || RequestId::Made { seed: self.seed, number: self.next.fetch_add(1, Ordering::Relaxed) };
        given.filter(|id| is_valid(id)).map_or_else(make, RequestId::Given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_of_an_id_equals_its_display() {
        for id in [RequestId::Given("a"), RequestId::Made { seed: 0x0123_4567_89ab_cdef, number: u64::MAX - 6 }] {
            assert_eq!(id.to_text(), id.to_string());
        }
    }

    #[test]
    fn a_valid_id_is_kept_and_an_invalid_one_replaced() {
        let ids = RequestIds::new(7);
        assert_eq!(ids.take(Some("abc-1")).to_string(), "abc-1");
        let long = "x".repeat(129);
        let made: Vec<String> =
            [None, Some(""), Some("a b"), Some("é"), Some(long.as_str())].map(|id| ids.take(id).to_string()).into();
        for (at, id) in made.iter().enumerate() {
            assert!(id.len() == 32 && !made[..at].contains(id), "{id}");
        }
    }
}
