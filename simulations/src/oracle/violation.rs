//! Violations of promises.

use std::fmt;

use crate::ids::Instant;

/// A promise that was broken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// One of [`PROMISES`].
    pub promise: &'static str,
    pub at: Instant,
    pub text: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {} ms: {}", self.promise, self.at / 1000, self.text)
    }
}

/// The names of all promises that have an oracle.
pub const PROMISES: [&str; 14] =
    ["rules", "I1", "I2", "I3", "I4", "I5", "I6", "I7", "I10", "deadline", "debts", "liveness", "denial", "rights"];
