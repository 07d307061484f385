//! How a node reaches PostgreSQL.

use std::path::PathBuf;
use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::ports::plane::DatabaseError;

/// The settings of the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DatabaseConfig {
    /// Every server that may be the primary, as `host:port`.
    pub hosts: Vec<String>,
    /// The server for this region's look-ups, as `host:port`. `None`: the primary.
    pub replica: Option<String>,
    pub database: String,
    pub user: String,
    /// The file is read again for every search of the primary, so that a password can be changed.
    pub password_file: Option<PathBuf>,
    /// With it, connections use TLS, and the server's certificate and name are verified.
    pub ca_file: Option<PathBuf>,
    pub deadlines: Deadlines,
}

/// The longest times that calls take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// To connect to a server, or to wait for a free connection.
    pub connect: Duration,
    /// A call of the leader or of an operator.
    pub call: Duration,
    /// A call that reads or writes all rules.
    pub bulk: Duration,
    /// To look an API key up.
    pub look_up: Duration,
    /// Between two polls for changes, in case that no notification arrives.
    pub poll: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            call: Duration::from_secs(5),
            bulk: Duration::from_secs(30),
            look_up: Duration::from_secs(1),
            poll: Duration::from_millis(250),
        }
    }
}

impl DatabaseConfig {
    /// The options of a connection to `host`, which is `host:port`.
    pub(super) fn options(&self, host: &str) -> Result<PgConnectOptions, DatabaseError> {
        let unavailable = |reason: String| DatabaseError::Unavailable(reason);
        let (name, port) = host.rsplit_once(':').ok_or_else(|| unavailable(format!("{host}: expected host:port")))?;
        let port = port.parse().map_err(|_| unavailable(format!("{host}: expected host:port")))?;
        let milliseconds = |time: Duration| format!("{}ms", time.as_millis());
        let options = PgConnectOptions::new_without_pgpass()
            .host(name.trim_start_matches('[').trim_end_matches(']'))
            .port(port)
            .database(&self.database)
            .username(&self.user)
            .application_name("tidegate")
            .options([
                ("search_path", "public".to_owned()),
                ("lock_timeout", milliseconds(self.deadlines.call)),
                ("statement_timeout", milliseconds(self.deadlines.bulk)),
                ("idle_in_transaction_session_timeout", milliseconds(self.deadlines.bulk)),
            ]);
        let options = match &self.ca_file {
            Some(file) => options.ssl_mode(PgSslMode::VerifyFull).ssl_root_cert(file),
            None => options.ssl_mode(PgSslMode::Prefer),
        };
        let Some(file) = &self.password_file else { return Ok(options) };
        let password = std::fs::read_to_string(file);
        let password = password.map_err(|error| unavailable(format!("{}: {error}", file.display())))?;
        Ok(options.password(password.trim_end_matches(['\r', '\n'])))
    }
}
