//! Committed changes that are not in force because they are not valid.

use limiter::Revision;
use serde::{Deserialize, Serialize};

/// A transaction of the database whose changes are not in force: the rules would not be valid with them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refused {
    pub revision: Revision,
    /// The changed rows, such as `limit api/free-per-minute`.
    pub rows: Vec<String>,
    /// Each with its field and what was expected there.
    pub errors: Vec<String>,
}
