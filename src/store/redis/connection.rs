//! A connection to one primary: it connects by itself, again and again, and one that does not answer is left alone
//! until it does.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface, LuaInterface};
use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, Server, ServerConfig, TcpConfig, TlsConnector,
    UnresponsiveConfig,
};
use fred::types::{ClusterHash, CustomCommand, Value};
use tokio::task::AbortHandle;

use crate::ports::location::Address;
use crate::telemetry::metrics::Metrics;
use counter_script::Script;
use limiter::Breaker;

/// How long a connection may leave anything unanswered before it is made anew.
const DEAF: Duration = Duration::from_secs(2);
/// Waits between attempts to connect, in milliseconds: the first, the longest, and what is random of them.
const RECONNECT: [u32; 3] = [50, 1000, 100];
/// Calls that a connection holds at most.
const MAX_QUEUE: usize = 10_000;

/// How servers are talked to.
#[derive(Clone)]
pub struct Manner {
    pub username: Option<String>,
    pub password: Option<String>,
    pub database: u8,
    pub tls: Option<TlsConnector>,
    /// Longest that anything waits for an answer.
    pub deadline: Duration,
    pub metrics: Arc<Metrics>,
}

impl Manner {
    /// What the client library is told about a connection to a server.
    pub fn settings(&self, address: &Address) -> (Config, PerformanceConfig, ConnectionConfig, ReconnectPolicy) {
        let mut server = Server::new(address.host.clone(), address.port);
        if let Some(ip) = address.ip {
            // Where the name was found; certificates are for the name.
            server = Server::new(ip.to_string(), address.port);
            server.tls_server_name = Some(address.host.clone().into());
        }
        let config = Config {
            server: ServerConfig::Centralized { server },
            username: self.username.clone(),
            password: self.password.clone(),
            database: (self.database > 0).then_some(self.database),
            tls: self.tls.clone().map(Into::into),
            fail_fast: false,
            ..Config::default()
        };
        let patience = self.deadline.max(Duration::from_millis(500));
        let connection = ConnectionConfig {
            connection_timeout: patience,
            internal_command_timeout: patience,
            max_command_attempts: 1,
            max_redirections: 0,
            max_command_buffer_len: MAX_QUEUE,
            unresponsive: UnresponsiveConfig { max_timeout: Some(DEAF), interval: DEAF / 4 },
            tcp: TcpConfig { nodelay: Some(true), user_timeout: Some(DEAF), ..TcpConfig::default() },
            ..ConnectionConfig::default()
        };
        let performance = PerformanceConfig { default_command_timeout: self.deadline, ..PerformanceConfig::default() };
        let [first, longest, jitter] = RECONNECT;
        let mut policy = ReconnectPolicy::new_exponential(0, first, longest, 2);
        policy.set_jitter(jitter);
        (config, performance, connection, policy)
    }
}

/// Why a call has no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallError {
    /// Nothing was sent.
    NotSent,
    /// The slot is another server's.
    Moved(Address),
    /// The key is to be asked for there, this once.
    Ask(Address),
    /// Some of the keys are here and some elsewhere.
    TryAgain,
    /// The server said no, and did nothing.
    Refused(String),
    /// It may have been done.
    Unknown,
}

pub struct Connection {
    pub address: Address,
    client: Client,
    task: AbortHandle,
    deadline: Duration,
    breaker: Breaker,
    pinging: AtomicBool,
    /// Why it was last lost, or did not come.
    cause: Arc<Mutex<String>>,
}

impl Connection {
    /// Begins to connect, and never stops trying. To be called within the runtime that it lives in.
    pub fn open(manner: &Manner, address: &Address) -> Self {
        let (config, performance, connection, policy) = manner.settings(address);
        let client = Client::new(config, Some(performance), Some(connection), Some(policy));
        let cause = Arc::new(Mutex::new(String::new()));
        let (metrics, shown, noted) = (Arc::clone(&manner.metrics), address.clone(), Arc::clone(&cause));
        client.on_error(move |(error, _)| {
            let details = error.details();
            *noted.lock().unwrap_or_else(PoisonError::into_inner) = plain(details).to_owned();
            metrics.redis_connection_error();
            tracing::debug!(server = %shown, %error, "a connection to Redis failed");
            std::future::ready(Ok(()))
        });
        let task = client.connect().abort_handle();
        let (breaker, pinging) = (Breaker::default(), AtomicBool::new(false));
        Self { address: address.clone(), client, task, deadline: manner.deadline, breaker, pinging, cause }
    }

    /// Whether calls are sent: it is connected, and answers.
    pub fn is_up(&self) -> bool {
        self.client.is_connected() && !self.breaker.is_open()
    }

    /// Whether it has never been connected, and nothing speaks against it yet.
    pub fn is_coming(&self) -> bool {
        !self.client.is_connected() && self.cause.lock().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// The server, and why it does not answer as far as is known.
    pub fn trouble(&self) -> String {
        let cause = self.cause.lock().unwrap_or_else(PoisonError::into_inner);
        if cause.is_empty() { self.address.to_string() } else { format!("{} ({cause})", self.address) }
    }

    /// Sees whether a server that was silent answers again.
    pub async fn look(&self) {
        if self.breaker.is_open() && self.client.is_connected() && !self.pinging.swap(true, Ordering::Relaxed) {
            if self.command("PING", &[]).await.is_ok() {
                self.breaker.record_answer();
            }
            self.pinging.store(false, Ordering::Relaxed);
        }
    }

    /// Asks for a sign of life; a server that gives none is silent after a few of these.
    pub async fn ping(&self) {
        if self.client.is_connected() {
            let silence = Silence { of: self, answered: false };
            let answer = self.command("PING", &[]).await;
            if answer.is_ok() {
                // Whatever was the matter is over: it must not explain what comes next.
                self.cause.lock().unwrap_or_else(PoisonError::into_inner).clear();
            }
            silence.over(!matches!(answer, Err(CallError::Unknown)));
        }
    }

    /// Runs a script; a server that does not know it is taught it. `asking` says that its keys are on their way here.
    pub async fn script(
        &self,
        script: &Script,
        keys: &[Bytes],
        arguments: &[Bytes],
        asking: bool,
    ) -> Result<Value, CallError> {
        if !self.is_up() {
            return Err(CallError::NotSent);
        }
        let silence = Silence { of: self, answered: false };
        let mut ran = self.run(script, keys, arguments, asking).await;
        if ran.as_ref().is_err_and(|error| error.details().starts_with("NOSCRIPT")) {
            let taught: Result<Value, _> = self.client.script_load(script.text()).await;
            ran = match taught {
                Ok(_) => self.run(script, keys, arguments, asking).await,
                Err(error) => Err(error),
            };
        }
        let ran = ran.map_err(|error| what_happened(&error, &self.address));
        silence.over(!matches!(ran, Err(CallError::Unknown)));
        ran
    }

    async fn run(&self, script: &Script, keys: &[Bytes], arguments: &[Bytes], asking: bool) -> Result<Value, Error> {
        let mut call = Vec::with_capacity(2 + keys.len() + arguments.len());
        call.extend([Value::from(script.hash()), Value::Integer(i64::try_from(keys.len()).unwrap_or(i64::MAX))]);
        call.extend(keys.iter().chain(arguments).cloned().map(Value::Bytes));
        let command = |name| CustomCommand::new_static(name, ClusterHash::FirstKey, false);
        if !asking {
            return self.client.custom(command("EVALSHA"), call).await;
        }
        // Both go out as one, so that nothing of others comes between.
        let both = self.client.pipeline();
        let _: Value = both.custom(command("ASKING"), Vec::<Value>::new()).await?;
        let _: Value = both.custom(command("EVALSHA"), call).await?;
        both.try_all().await.pop().unwrap_or_else(|| Err(Error::new(ErrorKind::Protocol, "no answer")))
    }

    /// A command of the operators' kind, such as `CLUSTER SLOTS`.
    ///
    /// # Errors
    /// When the server says no, or nothing in time.
    pub async fn command(&self, name: &'static str, arguments: &[&str]) -> Result<Value, CallError> {
        let arguments: Vec<Value> = arguments.iter().map(|text| Value::from(*text)).collect();
        let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
        let answer: Result<Value, Error> = self.client.custom(command, arguments).await;
        answer.map_err(|error| what_happened(&error, &self.address))
    }

    /// Waits until it is connected, at most as long as a call may take.
    pub async fn connected(&self) -> bool {
        self.client.is_connected()
            || matches!(tokio::time::timeout(self.deadline, self.client.wait_for_connect()).await, Ok(Ok(())))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Counts a call that nobody waits for any more as one without an answer.
struct Silence<'a> {
    of: &'a Connection,
    answered: bool,
}

impl Silence<'_> {
    fn over(mut self, answered: bool) {
        self.answered = answered;
        if answered {
            self.of.breaker.record_answer();
        }
    }
}

impl Drop for Silence<'_> {
    fn drop(&mut self) {
        if !self.answered {
            self.of.breaker.record_timeout();
        }
    }
}

/// What the system says went wrong, of an error that the client library tells as Rust's own structure.
fn plain(details: &str) -> &str {
    let message = details.split_once("message: \"").and_then(|(_, rest)| rest.split_once('"'));
    message.map_or(details, |(message, _)| message)
}

/// What an error says of the call. Whatever a server answers before it runs a script, nothing was done; what nobody
/// knows may have been done.
fn what_happened(error: &Error, from: &Address) -> CallError {
    const NOTHING_DONE: [&str; 15] = [
        "BUSY",
        "CLUSTERDOWN",
        "ERR",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOAUTH",
        "NOPERM",
        "NOREPLICAS",
        "NOSCRIPT",
        "OOM",
        "READONLY",
        "TIDEGATE",
        "UNKILLABLE",
        "WRONGPASS",
    ];
    let details = error.details();
    let mut words = details.split(' ');
    let first = words.next().unwrap_or("");
    let elsewhere = || {
        let (host, port) = details.rsplit(' ').next()?.rsplit_once(':')?;
        let host = if host.is_empty() { &from.host } else { host };
        Some(Address::new(host.to_owned(), port.parse().ok()?))
    };
    match first {
        "MOVED" => elsewhere().map_or(CallError::Unknown, CallError::Moved),
        "ASK" => elsewhere().map_or(CallError::Unknown, CallError::Ask),
        "TRYAGAIN" => CallError::TryAgain,
        _ if NOTHING_DONE.contains(&first) => CallError::Refused(details.to_owned()),
        _ if *error.kind() == ErrorKind::Backpressure => CallError::NotSent,
        _ => CallError::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn causes_are_told_in_plain_words() {
        let refused = r#"Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }"#;
        assert_eq!(plain(refused), "Connection refused");
        assert_eq!(plain("WRONGPASS invalid password"), "WRONGPASS invalid password");
        assert_eq!(plain("message: \""), "message: \"");
    }

    #[test]
    fn only_what_a_server_said_did_nothing_did_nothing() {
        let from = Address::new("a".to_owned(), 1);
        let of = |text: &'static str| what_happened(&Error::new(ErrorKind::Unknown, text), &from);
        let at = |host: &str, port| Address::new(host.to_owned(), port);
        assert_eq!(of("MOVED 3999 127.0.0.1:6381"), CallError::Moved(at("127.0.0.1", 6381)));
        assert_eq!(of("ASK 3999 ::1:6381"), CallError::Ask(at("::1", 6381)));
        assert_eq!(of("MOVED 3999 :6381"), CallError::Moved(at("a", 6381)));
        assert_eq!(of("TRYAGAIN Multiple keys request during rehashing of slot"), CallError::TryAgain);
        assert!(matches!(of("LOADING Redis is loading the dataset in memory"), CallError::Refused(_)));
        for text in ["", "MOVED", "MOVED 1 x", "Request timed out.", "Canceled", "os error 104", "EOF"] {
            assert_eq!(of(text), CallError::Unknown, "{text}");
        }
    }
}
