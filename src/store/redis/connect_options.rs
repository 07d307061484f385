//! How to connect to a server: user, TLS, timeouts and reconnection, as options of the client library.

use std::time::Duration;

use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, Server, ServerConfig, TcpConfig, TlsConnector,
    UnresponsiveConfig,
};

use super::super::location::Address;
use crate::store::metrics::StoreMetrics;
use crate::tls::ClientTls;

/// A connection that leaves anything unanswered for this long is closed and opened again.
const UNRESPONSIVE_AFTER: Duration = Duration::from_secs(2);
/// The shortest timeout for connecting and for internal commands of the client library.
const MIN_CONNECT_TIMEOUT: Duration = Duration::from_millis(500);
/// Delays between attempts to connect, in milliseconds.
const RECONNECT_FIRST_MS: u32 = 50;
const RECONNECT_MAX_MS: u32 = 1000;
/// The random part of each delay, in milliseconds.
const RECONNECT_JITTER_MS: u32 = 100;
/// The most calls that may wait in a connection.
const MAX_QUEUE: usize = 10_000;

/// How to connect to servers and how long to wait for their replies.
#[derive(Clone)]
pub struct ConnectOptions {
    pub username: Option<String>,
    pub password: Option<String>,
    /// 0: the default database, which is not selected explicitly.
    pub database: u8,
    /// `None`: a connection without TLS.
    pub tls: Option<ClientTls>,
    /// The longest wait for a reply.
    pub deadline: Duration,
    pub metrics: StoreMetrics,
}

impl ConnectOptions {
    /// Returns the client library's configuration of a connection to a server.
    pub fn client_config(&self, address: &Address) -> (Config, PerformanceConfig, ConnectionConfig, ReconnectPolicy) {
        let mut server = Server::new(address.host.clone(), address.port);
        if let Some(ip) = address.ip {
            // Connects to the resolved address, but verifies the certificate for the host name.
            server = Server::new(ip.to_string(), address.port);
            server.tls_server_name = Some(address.host.clone().into());
        }
        let config = Config {
            server: ServerConfig::Centralized { server },
            username: self.username.clone(),
            password: self.password.clone(),
            database: (self.database > 0).then_some(self.database),
            tls: self.tls.as_ref().map(|tls| TlsConnector::from(tls.connector()).into()),
            fail_fast: false,
            ..Config::default()
        };
        let connect_timeout = self.deadline.max(MIN_CONNECT_TIMEOUT);
        let connection = ConnectionConfig {
            connection_timeout: connect_timeout,
            internal_command_timeout: connect_timeout,
            max_command_attempts: 1,
            max_redirections: 0,
            max_command_buffer_len: MAX_QUEUE,
            unresponsive: UnresponsiveConfig {
                max_timeout: Some(UNRESPONSIVE_AFTER),
                interval: UNRESPONSIVE_AFTER / 4,
            },
            tcp: TcpConfig { nodelay: Some(true), user_timeout: Some(UNRESPONSIVE_AFTER), ..TcpConfig::default() },
            ..ConnectionConfig::default()
        };
        let performance = PerformanceConfig { default_command_timeout: self.deadline, ..PerformanceConfig::default() };
        let mut policy = ReconnectPolicy::new_exponential(0, RECONNECT_FIRST_MS, RECONNECT_MAX_MS, 2);
        policy.set_jitter(RECONNECT_JITTER_MS);
        (config, performance, connection, policy)
    }
}
