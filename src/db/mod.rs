//! PostgreSQL, in which operators write rules, users and API keys. `docs/database.md` describes the tables.
//!
//! [`Database`] implements the ports: `changes` what the leader of the cluster reads, `edit` and `lists` what the
//! admin service asks, `directory` look-ups of API keys. Every call has a deadline.

mod changes;
mod config;
mod directory;
mod edit;
mod error;
mod lists;
mod metrics;
pub mod migrations;
mod primary;
mod replica;
mod restore;
mod rows;
mod rules;
mod session;

use std::future::Future;
use std::time::Duration;

use sqlx::postgres::PgListener;
use tokio::sync::Notify;

use crate::ports::plane::DatabaseError;
use crate::ports::{BoxFuture, Fatal, Service, Shutdown};

pub use config::{DatabaseConfig, Deadlines};
pub use metrics::DatabaseMetrics;
pub use rows::{LimitDecoder, LimitEncoder};

use primary::Primary;
use replica::Replica;
use session::Session;

/// How many checks in a row must find no primary before the known one is forgotten.
const FAILED_CHECKS: u32 = 2;
/// The time before a lost subscription is tried again.
const SUBSCRIBE_AGAIN: Duration = Duration::from_millis(500);

/// The database. Connections are made when they are needed.
///
/// As a service, it subscribes to notifications, and looks for a newer primary. Without the service, changes are polled
/// and a failed primary is still replaced.
pub struct Database {
    config: DatabaseConfig,
    metrics: DatabaseMetrics,
    decode: LimitDecoder,
    encode: LimitEncoder,
    primary: Primary,
    /// `None`: look-ups go to the primary.
    replica: Option<Replica>,
    changed: Notify,
}

impl Database {
    /// `decode` and `encode` read and write a limit in the form of a rule file.
    pub fn new(config: DatabaseConfig, metrics: DatabaseMetrics, decode: LimitDecoder, encode: LimitEncoder) -> Self {
        let primary = Primary::new(config.clone(), metrics.clone());
        let replica = config.replica.clone().map(Replica::new);
        Self { config, metrics, decode, encode, primary, replica, changed: Notify::new() }
    }

    /// A connection to the primary.
    async fn session(&self) -> Result<Session, DatabaseError> {
        self.primary.acquire().await.map(Session::new)
    }

    /// Waits for `call` until the deadline.
    async fn within<T>(
        deadline: Duration,
        call: impl Future<Output = Result<T, DatabaseError>>,
    ) -> Result<T, DatabaseError> {
        tokio::time::timeout(deadline, call).await.unwrap_or_else(|_| Err(error::late()))
    }

    /// Subscribes to the notifications of the primary, and wakes the reader at each.
    async fn listen(&self) {
        let mut moved = self.primary.changes();
        loop {
            moved.mark_unchanged();
            let lost = async {
                let pool = self.primary.pool().await?;
                // A pool of its own, because the subscription keeps its connection.
                let own = sqlx::postgres::PgPoolOptions::new().max_connections(1);
                let own = own.acquire_timeout(self.config.deadlines.connect);
                let own = own.connect_lazy_with((*pool.connect_options()).clone());
                let subscribed = async {
                    let mut listener = PgListener::connect_with(&own).await?;
                    listener.listen("tidegate").await?;
                    // There may have been changes before the subscription.
                    self.changed.notify_one();
                    while listener.try_recv().await?.is_some() {
                        self.changed.notify_one();
                    }
                    Ok::<_, sqlx::Error>(())
                };
                subscribed.await.map_err(|error| error::describe(&error))
            };
            tokio::select! {
                lost = lost => {
                    if let Err(error) = lost {
                        tracing::debug!(%error, "no subscription to changes; polling");
                    }
                    tokio::time::sleep(SUBSCRIBE_AGAIN).await;
                }
                _ = moved.changed() => {}
            }
        }
    }

    async fn watch_primary(&self) {
        let mut failed = 0;
        loop {
            tokio::time::sleep(self.config.deadlines.check_primary).await;
            failed = if self.primary.check().await { 0 } else { failed + 1 };
            if failed == FAILED_CHECKS {
                self.primary.forget();
                failed = 0;
            }
        }
    }
}

impl Service for Database {
    fn name(&self) -> &'static str {
        "database"
    }

    fn run(&self, mut shutdown: Shutdown) -> BoxFuture<'_, Result<(), Fatal>> {
        Box::pin(async move {
            tokio::select! {
                () = shutdown.requested() => {}
                () = self.listen() => {}
                () = self.watch_primary() => {}
            }
            Ok(())
        })
    }
}
