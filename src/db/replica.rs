//! The replica of the region, which answers look-ups while it is there.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::PgPool;
use tokio::time::Instant;

use super::primary::{CONNECTIONS, Primary};
use super::session::Session;
use crate::ports::plane::DatabaseError;

/// After a failure, how long the replica is not asked.
const PAUSE: Duration = Duration::from_secs(2);

/// Keeps connections to the replica.
pub(super) struct Replica {
    /// `host:port`
    host: String,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    pool: Option<PgPool>,
    paused_until: Option<Instant>,
}

#[expect(clippy::disallowed_methods, reason = "a pause ends in real time")]
fn now() -> Instant {
    Instant::now()
}

impl Replica {
    pub fn new(host: String) -> Self {
        Self { host, state: Mutex::default() }
    }

    /// A connection to the replica; `None` if it does not answer, or failed a moment ago.
    pub async fn session(&self, primary: &Primary) -> Result<Option<Session>, DatabaseError> {
        if self.state().paused_until.is_some_and(|until| now() < until) {
            return Ok(None);
        }
        let known = self.state().pool.clone();
        let pool = match known {
            Some(pool) => pool,
            None => {
                let pool = primary.replica_connections(&self.host)?;
                self.state().pool.get_or_insert(pool).clone()
            }
        };
        match pool.acquire().await {
            Ok(connection) => Ok(Some(Session::new(connection))),
            Err(error) => {
                let is_used_up = pool.size() >= CONNECTIONS && pool.num_idle() == 0;
                match error {
                    sqlx::Error::PoolTimedOut if is_used_up => {}
                    sqlx::Error::PoolTimedOut => self.failed(&error),
                    // The next pool reads the password again.
                    _ => {
                        self.state().pool.take();
                        self.failed(&error);
                    }
                }
                Ok(None)
            }
        }
    }

    /// Takes note that the replica does not answer.
    pub fn failed(&self, error: &dyn std::fmt::Display) {
        tracing::debug!(host = self.host, %error, "the replica does not answer; asking the primary");
        self.state().paused_until = Some(now() + PAUSE);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
