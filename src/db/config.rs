//! How a node reaches PostgreSQL.

use std::net::IpAddr;
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
    /// To look an API key up. No check waits for so long; a new connection to a far primary takes ten round trips.
    pub look_up: Duration,
    /// Between two polls for changes, in case that no notification arrives.
    pub poll: Duration,
    /// Between two checks that the known primary still is the newest. A call that fails searches at once.
    pub check_primary: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            call: Duration::from_secs(5),
            bulk: Duration::from_secs(30),
            look_up: Duration::from_secs(4),
            poll: Duration::from_millis(250),
            check_primary: Duration::from_secs(30),
        }
    }
}

impl DatabaseConfig {
    /// True if a server on another machine may be asked without a verified TLS connection.
    pub fn sends_in_clear(&self) -> bool {
        let is_local = |host: &String| {
            let name = host.rsplit_once(':').map_or(host.as_str(), |(name, _)| name);
            let name = name.trim_start_matches('[').trim_end_matches(']');
            name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
        };
        self.ca_file.is_none() && !self.hosts.iter().chain(&self.replica).all(is_local)
    }

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
                // Shorter than a call, so that its error says what it waited for.
                ("lock_timeout", milliseconds(self.deadlines.call * 3 / 4)),
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

#[cfg(test)]
mod tests {
    use super::{DatabaseConfig, Deadlines};

    #[test]
    fn only_servers_of_this_machine_are_asked_without_tls_in_silence() {
        let config = |hosts: &[&str], replica: Option<&str>| DatabaseConfig {
            hosts: hosts.iter().map(ToString::to_string).collect(),
            replica: replica.map(ToOwned::to_owned),
            database: "ratelimiter".to_owned(),
            user: "tidegate".to_owned(),
            password_file: None,
            ca_file: None,
            deadlines: Deadlines::default(),
        };
        assert!(!config(&["127.0.0.1:5432", "localhost:5433", "[::1]:5432"], None).sends_in_clear());
        assert!(config(&["127.0.0.1:5432", "pg-2:5432"], None).sends_in_clear());
        assert!(config(&["127.0.0.1:5432"], Some("10.0.0.1:5432")).sends_in_clear());
        let with_tls = DatabaseConfig { ca_file: Some("ca.crt".into()), ..config(&["pg-1:5432"], None) };
        assert!(!with_tls.sends_in_clear());
    }
}
