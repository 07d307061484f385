//! The errors that Redis servers return, such as `LOADING` or `OOM`, for the log and `/ready`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::location::Address;

/// An error is current until this many heartbeats passed without a new one. Checks may be further apart than
/// heartbeats.
const CURRENT_HEARTBEATS: u32 = 4;

/// The newest error of each server that returned one lately.
#[derive(Default)]
pub struct ServerErrors(Mutex<BTreeMap<String, ServerError>>);

struct ServerError {
    text: String,
    /// Heartbeats since the server returned the error.
    age: u32,
}

impl ServerErrors {
    /// Records an error that `server` returned. Logs it only if the server has no current error: each of many batches
    /// may get an error, for one reason or another.
    pub fn record(&self, server: &Address, error: &str) {
        let newest = ServerError { text: error.to_owned(), age: 0 };
        if self.errors().insert(server.to_string(), newest).is_none() {
            tracing::warn!(%server, error, "Redis returned an error");
        }
    }

    /// Counts a heartbeat and removes the errors that are no longer current.
    pub fn age(&self) {
        self.errors().retain(|_, error| {
            error.age += 1;
            error.age < CURRENT_HEARTBEATS
        });
    }

    /// Returns the current errors of all servers as one text; `None` if there are none.
    pub fn current(&self) -> Option<String> {
        let all: Vec<String> =
            self.errors().iter().map(|(server, error)| format!("{server}: {}", error.text)).collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn errors(&self) -> MutexGuard<'_, BTreeMap<String, ServerError>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_current_until_enough_heartbeats_passed_without_it() {
        let errors = ServerErrors::default();
        let [first, second] = [1, 2].map(|port| Address::new("h".to_owned(), port));
        assert_eq!(errors.current(), None);
        errors.record(&second, "LOADING");
        for _ in 0..3 {
            errors.record(&first, "WRONGTYPE");
            errors.record(&first, "OOM");
            errors.age();
        }
        assert_eq!(errors.current().as_deref(), Some("h:1: OOM; h:2: LOADING"));
        errors.age();
        assert_eq!(errors.current().as_deref(), Some("h:1: OOM"));
        (0..CURRENT_HEARTBEATS).for_each(|_| errors.age());
        assert_eq!(errors.current(), None);
    }
}
