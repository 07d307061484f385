//! The server that is primary now. After a failover it is another one, and nobody restarts the node.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use sqlx::pool::PoolConnection;
use sqlx::postgres::PgPoolOptions;
use sqlx::{ConnectOptions, Connection, Error, PgConnection, PgPool, Postgres};
use tokio::sync::watch;

use super::config::{DatabaseConfig, Deadlines};
use super::error::{describe, is_of_server, late};
use super::metrics::{DatabaseMetrics, Query};
use crate::ports::plane::DatabaseError;

/// The most connections to the primary, and to the replica.
pub(super) const CONNECTIONS: u32 = 8;

/// Is the server a primary, and on which timeline? Each promotion begins a new one.
const WHO_ARE_YOU: &str = "SELECT CASE WHEN pg_is_in_recovery() THEN NULL \
     ELSE ('x' || left(pg_walfile_name(pg_current_wal_insert_lsn()), 8))::bit(32)::integer END";

/// Tells servers apart. A server may be listed under two names.
const STARTED: &str = "SELECT floor(extract(epoch FROM pg_postmaster_start_time()) * 1000000)::bigint";

/// Finds the primary among the servers, and keeps connections to it.
pub(super) struct Primary {
    config: DatabaseConfig,
    metrics: DatabaseMetrics,
    current: Mutex<Option<Found>>,
    /// Held during a search, so that there is one at a time.
    search: tokio::sync::Mutex<()>,
    /// Counts the searches that ended.
    searches: AtomicU64,
    /// Counts the primaries that were found.
    found: watch::Sender<u64>,
}

#[derive(Clone)]
struct Found {
    host: String,
    timeline: i32,
    pool: PgPool,
    /// Which of the primaries that were found this is.
    number: u64,
}

impl Primary {
    pub fn new(config: DatabaseConfig, metrics: DatabaseMetrics) -> Self {
        let (current, search) = (Mutex::new(None), tokio::sync::Mutex::new(()));
        Self { config, metrics, current, search, searches: AtomicU64::new(0), found: watch::Sender::new(0) }
    }

    /// Changes whenever another server is found to be the primary.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.found.subscribe()
    }

    /// The connections to the primary. Searches it if none is known.
    pub async fn pool(&self) -> Result<PgPool, DatabaseError> {
        Ok(self.known().await?.pool)
    }

    async fn known(&self) -> Result<Found, DatabaseError> {
        let known = self.current().clone();
        match known {
            Some(found) => Ok(found),
            None => self.search_after(self.searches.load(Ordering::Relaxed)).await,
        }
    }

    /// Searches the primary, unless another call's search has ended after the first `searches` of them.
    async fn search_after(&self, searches: u64) -> Result<Found, DatabaseError> {
        let _search = self.search.lock().await;
        let known = self.current().clone();
        match known {
            Some(found) if self.searches.load(Ordering::Relaxed) > searches => Ok(found),
            _ => self.find().await,
        }
    }

    /// A connection to the primary.
    pub async fn acquire(&self) -> Result<PoolConnection<Postgres>, DatabaseError> {
        let found = self.known().await?;
        let error = match found.pool.acquire().await {
            Ok(connection) => return Ok(connection),
            Err(error) => error,
        };
        // A pool whose connections are all lent out looks like one whose server refuses connections or is a replica
        // now. The servers tell which it is. After other errors, the next pool reads the password again.
        if !matches!(error, Error::PoolTimedOut) {
            self.forget();
        }
        let searches = self.searches.load(Ordering::Relaxed);
        let now = self.search_after(searches).await.inspect_err(|_| self.forget())?;
        if now.number == found.number {
            return Err(describe(&error));
        }
        now.pool.acquire().await.map_err(|error| self.failed(&error))
    }

    /// Describes an error. If it is one of the server, the primary is searched at the next call.
    pub fn failed(&self, error: &Error) -> DatabaseError {
        if is_of_server(error) {
            self.forget();
        }
        describe(error)
    }

    pub fn forget(&self) {
        self.current().take();
    }

    /// Searches again while a primary is known: another server may have been promoted while the old one lives. Returns
    /// false if no server is primary.
    pub async fn check(&self) -> bool {
        if self.current().is_none() {
            return true;
        }
        let _search = self.search.lock().await;
        self.find().await.is_ok()
    }

    /// Asks every server, and takes the primary with the highest timeline. If two have it, nothing tells which one the
    /// cluster follows, so neither is taken. The caller holds `search`.
    async fn find(&self) -> Result<Found, DatabaseError> {
        let _timer = self.metrics.start(Query::FindPrimary);
        let answers = join_all(self.config.hosts.iter().map(|host| self.ask(host))).await;
        self.searches.fetch_add(1, Ordering::Relaxed);
        let mut best: Option<((i32, i64), &String)> = None;
        let mut rivals = None;
        let mut others = Vec::new();
        for (host, answer) in self.config.hosts.iter().zip(answers) {
            match answer {
                Ok(Some(server)) => match best {
                    Some((known, first)) if known.0 == server.0 => {
                        if known != server {
                            rivals = Some((first, host));
                        }
                    }
                    Some((known, _)) if known.0 > server.0 => {}
                    _ => (best, rivals) = (Some((server, host)), None),
                },
                Ok(None) => others.push(format!("{host} is a replica")),
                Err(DatabaseError::Unavailable(reason)) => others.push(format!("{host}: {reason}")),
                Err(error) => others.push(format!("{host}: {error}")),
            }
        }
        if let Some((first, second)) = rivals {
            let reason = format!("{first} and {second} both are primaries on the same timeline: stop the wrong one");
            return Err(DatabaseError::Unavailable(reason));
        }
        let Some(((timeline, _), host)) = best else {
            return Err(DatabaseError::Unavailable(format!("no server is primary: {}", others.join("; "))));
        };
        let known = self.current().clone().filter(|found| found.host == *host && found.timeline == timeline);
        if let Some(found) = known {
            return Ok(found);
        }
        // A call has time to search if the server does not answer.
        let Deadlines { connect, call, .. } = self.config.deadlines;
        let pool = self.connections(host, true, connect.min(call / 4))?;
        self.found.send_modify(|count| *count += 1);
        let found = Found { host: host.clone(), timeline, pool, number: *self.found.borrow() };
        *self.current() = Some(found.clone());
        tracing::info!(host, timeline, "PostgreSQL's primary");
        Ok(found)
    }

    /// The timeline of a primary and when it started; `None` for a replica.
    async fn ask(&self, host: &str) -> Result<Option<(i32, i64)>, DatabaseError> {
        let options = self.config.options(host)?;
        let asked = async {
            let mut connection = options.connect().await?;
            let timeline: Option<i32> = sqlx::query_scalar(WHO_ARE_YOU).fetch_one(&mut connection).await?;
            let started: i64 = sqlx::query_scalar(STARTED).fetch_one(&mut connection).await?;
            connection.close().await?;
            Ok::<_, Error>(timeline.map(|timeline| (timeline, started)))
        };
        match tokio::time::timeout(self.config.deadlines.connect, asked).await {
            Ok(answer) => answer.map_err(|error| describe(&error)),
            Err(_) => Err(late()),
        }
    }

    /// Connections to a replica, made when they are needed. A look-up has time to ask the primary if it does not
    /// answer.
    pub fn replica_connections(&self, host: &str) -> Result<PgPool, DatabaseError> {
        self.connections(host, false, self.config.deadlines.look_up / 4)
    }

    /// Connections to a server. With `writes`, a server that is a replica is an error. The pool tries again to connect
    /// until `deadline`.
    fn connections(&self, host: &str, writes: bool, deadline: Duration) -> Result<PgPool, DatabaseError> {
        let pool = PgPoolOptions::new()
            .max_connections(CONNECTIONS)
            .acquire_timeout(deadline)
            .idle_timeout(Duration::from_secs(60))
            .after_connect(move |connection: &mut PgConnection, _| {
                Box::pin(async move {
                    // A server that failed may come back as a replica.
                    let timeline: Option<i32> = sqlx::query_scalar(WHO_ARE_YOU).fetch_one(connection).await?;
                    let usable = timeline.is_some() || !writes;
                    usable.then_some(()).ok_or_else(|| Error::Protocol("the server is a replica".to_owned()))
                })
            });
        Ok(pool.connect_lazy_with(self.config.options(host)?))
    }

    fn current(&self) -> MutexGuard<'_, Option<Found>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
