//! A connection to one primary. It reconnects automatically until it is dropped. A circuit breaker withholds calls from
//! a server that does not reply, until it replies to a probe.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use fred::clients::Client;
use fred::error::{Error, ErrorKind};
use fred::interfaces::{ClientLike, EventInterface, LuaInterface};
use fred::types::{ClusterHash, CustomCommand, Value};
use tokio::task::AbortHandle;

use super::super::location::Address;
use super::call_error::CallError;
use super::connect_options::ConnectOptions;
use counter_script::Script;
use limiter::Breaker;

/// A connection to one server.
pub struct Connection {
    pub address: Address,
    client: Client,
    /// The client library's task, which connects and reconnects.
    task: AbortHandle,
    /// The longest wait for a connection.
    deadline: Duration,
    breaker: Breaker,
    /// True while a probe waits for its reply.
    probing: AtomicBool,
    /// False if the server said that it has no replica.
    has_replica: AtomicBool,
    /// The last error of connecting or of the connection; `None` if there was none since the last reply to a ping.
    last_error: Arc<Mutex<Option<String>>>,
}

impl Connection {
    /// Begins to connect, and retries until the connection is dropped. Must be called within the runtime that the
    /// connection is used in.
    pub fn open(options: &ConnectOptions, address: &Address) -> Self {
        let (config, performance, connection, policy) = options.client_config(address);
        let client = Client::new(config, Some(performance), Some(connection), Some(policy));
        let last_error = Arc::new(Mutex::new(None));
        let (metrics, server, newest) = (options.metrics.clone(), address.clone(), Arc::clone(&last_error));
        client.on_error(move |(error, _)| {
            let details = error.details();
            *newest.lock().unwrap_or_else(PoisonError::into_inner) = Some(system_message(details).to_owned());
            metrics.connection_error();
            tracing::debug!(%server, %error, "a connection to Redis failed");
            std::future::ready(Ok(()))
        });
        let task = client.connect().abort_handle();
        let (breaker, probing, has_replica) = (Breaker::default(), AtomicBool::new(false), AtomicBool::new(true));
        let (address, deadline) = (address.clone(), options.deadline);
        Self { address, client, task, deadline, breaker, probing, has_replica, last_error }
    }

    /// False if the server said that it has no replica, when it was asked last.
    pub fn has_replica(&self) -> bool {
        self.has_replica.load(Ordering::Relaxed)
    }

    /// Records whether the server has a replica.
    pub fn set_has_replica(&self, has_replica: bool) {
        self.has_replica.store(has_replica, Ordering::Relaxed);
    }

    /// True if calls are sent: the connection is open, and the server replies.
    pub fn is_up(&self) -> bool {
        self.client.is_connected() && !self.breaker.is_open()
    }

    /// True if the first attempt to connect has neither succeeded nor failed yet.
    pub fn is_connecting(&self) -> bool {
        !self.client.is_connected() && self.last_error.lock().unwrap_or_else(PoisonError::into_inner).is_none()
    }

    /// Returns the server's address, and its last error in parentheses if there is one.
    pub fn address_and_error(&self) -> String {
        let error = self.last_error.lock().unwrap_or_else(PoisonError::into_inner);
        match &*error {
            Some(error) => format!("{} ({error})", self.address),
            None => self.address.to_string(),
        }
    }

    /// Sends a `PING` if the breaker is open and no other probe waits; a reply closes the breaker.
    pub async fn probe_if_unresponsive(&self) {
        if self.breaker.is_open() && self.client.is_connected() && !self.probing.swap(true, Ordering::Relaxed) {
            if self.command("PING", &[]).await.is_ok() {
                self.breaker.record_answer();
            }
            self.probing.store(false, Ordering::Relaxed);
        }
    }

    /// Sends a `PING`. A few pings in a row without a reply open the breaker.
    pub async fn ping(&self) {
        if self.client.is_connected() {
            let call = UnansweredCall { connection: self, replied: false };
            let reply = self.command("PING", &[]).await;
            if reply.is_ok() {
                // The last error is resolved: it must not explain a later problem.
                self.last_error.lock().unwrap_or_else(PoisonError::into_inner).take();
            }
            call.finish(!matches!(reply, Err(CallError::Unknown)));
        }
    }

    /// Runs a script, and loads it first on a server that does not have it. `asking` says that the server is importing
    /// the slot of the keys.
    pub async fn run_script(
        &self,
        script: &Script,
        keys: &[Bytes],
        arguments: &[Bytes],
        asking: bool,
    ) -> Result<Value, CallError> {
        if !self.is_up() {
            return Err(CallError::NotSent);
        }
        let call = UnansweredCall { connection: self, replied: false };
        let mut reply = self.evalsha(script, keys, arguments, asking).await;
        if reply.as_ref().is_err_and(|error| error.details().starts_with("NOSCRIPT")) {
            let loaded: Result<Value, _> = self.client.script_load(script.text()).await;
            reply = match loaded {
                Ok(_) => self.evalsha(script, keys, arguments, asking).await,
                Err(error) => Err(error),
            };
        }
        let reply = reply.map_err(|error| CallError::classify(&error, &self.address));
        call.finish(!matches!(reply, Err(CallError::Unknown)));
        reply
    }

    /// Runs a script as [`Self::run_script`] does, then waits up to `wait_ms` milliseconds until replicas have what
    /// this connection wrote. Returns how many have it.
    ///
    /// Both commands leave as one pipeline: on another connection, `WAIT` would not know what was written.
    pub async fn run_script_and_wait(
        &self,
        script: &Script,
        keys: &[Bytes],
        arguments: &[Bytes],
        wait_ms: u64,
    ) -> Result<(Value, u64), CallError> {
        if !self.is_up() {
            return Err(CallError::NotSent);
        }
        let call = UnansweredCall { connection: self, replied: false };
        let mut reply = self.evalsha_and_wait(script, keys, arguments, wait_ms).await;
        if reply.as_ref().is_err_and(|error| error.details().starts_with("NOSCRIPT")) {
            let loaded: Result<Value, _> = self.client.script_load(script.text()).await;
            reply = match loaded {
                Ok(_) => self.evalsha_and_wait(script, keys, arguments, wait_ms).await,
                Err(error) => Err(error),
            };
        }
        let reply = reply.map_err(|error| CallError::classify(&error, &self.address));
        call.finish(!matches!(reply, Err(CallError::Unknown)));
        reply
    }

    async fn evalsha_and_wait(
        &self,
        script: &Script,
        keys: &[Bytes],
        arguments: &[Bytes],
        wait_ms: u64,
    ) -> Result<(Value, u64), Error> {
        let command = |name| CustomCommand::new_static(name, ClusterHash::FirstKey, false);
        let pipeline = self.client.pipeline();
        let _: Value = pipeline.custom(command("EVALSHA"), evalsha_arguments(script, keys, arguments)).await?;
        let wait = [1, i64::try_from(wait_ms).unwrap_or(i64::MAX)].map(Value::Integer).to_vec();
        let _: Value = pipeline.custom(command("WAIT"), wait).await?;
        let none = || Error::new(ErrorKind::Protocol, "no answer");
        let mut replies: Vec<Result<Value, Error>> = pipeline.try_all().await;
        let waited = replies.pop().ok_or_else(none)?;
        let ran = replies.pop().ok_or_else(none)??;
        Ok((ran, waited?.as_u64().unwrap_or(0)))
    }

    async fn evalsha(
        &self,
        script: &Script,
        keys: &[Bytes],
        arguments: &[Bytes],
        asking: bool,
    ) -> Result<Value, Error> {
        let call = evalsha_arguments(script, keys, arguments);
        let command = |name| CustomCommand::new_static(name, ClusterHash::FirstKey, false);
        if !asking {
            return self.client.custom(command("EVALSHA"), call).await;
        }
        // ASKING applies to the next command of the connection: the pipeline keeps other calls from coming between.
        let pipeline = self.client.pipeline();
        let _: Value = pipeline.custom(command("ASKING"), Vec::<Value>::new()).await?;
        let _: Value = pipeline.custom(command("EVALSHA"), call).await?;
        pipeline.try_all().await.pop().unwrap_or_else(|| Err(Error::new(ErrorKind::Protocol, "no answer")))
    }

    /// Runs a command that is no part of a check, such as `CLUSTER SLOTS`. The breaker neither withholds nor counts it.
    ///
    /// # Errors
    /// If the server returns an error, or nothing within the deadline.
    pub async fn command(&self, name: &'static str, arguments: &[&str]) -> Result<Value, CallError> {
        let arguments: Vec<Value> = arguments.iter().map(|text| Value::from(*text)).collect();
        let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
        let reply: Result<Value, Error> = self.client.custom(command, arguments).await;
        reply.map_err(|error| CallError::classify(&error, &self.address))
    }

    /// Waits until the connection is open, at most for the deadline. Returns whether it is open.
    pub async fn wait_connected(&self) -> bool {
        self.client.is_connected()
            || matches!(tokio::time::timeout(self.deadline, self.client.wait_for_connect()).await, Ok(Ok(())))
    }
}

fn evalsha_arguments(script: &Script, keys: &[Bytes], arguments: &[Bytes]) -> Vec<Value> {
    let mut call = Vec::with_capacity(2 + keys.len() + arguments.len());
    call.extend([Value::from(script.hash()), Value::Integer(i64::try_from(keys.len()).unwrap_or(i64::MAX))]);
    call.extend(keys.iter().chain(arguments).cloned().map(Value::Bytes));
    call
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A call that waits for its reply. If it is dropped without one, for example because its future was cancelled, it
/// counts as a timeout.
struct UnansweredCall<'a> {
    connection: &'a Connection,
    replied: bool,
}

impl UnansweredCall<'_> {
    /// Tells the breaker whether the server replied.
    fn finish(mut self, replied: bool) {
        self.replied = replied;
        if replied {
            self.connection.breaker.record_answer();
        }
    }
}

impl Drop for UnansweredCall<'_> {
    fn drop(&mut self) {
        if !self.replied {
            self.connection.breaker.record_timeout();
        }
    }
}

/// Returns the operating system's message from an error that the client library formats as Rust's debug output.
/// Returns any other text unchanged.
fn system_message(details: &str) -> &str {
    let message = details.split_once("message: \"").and_then(|(_, rest)| rest.split_once('"'));
    message.map_or(details, |(message, _)| message)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_s_message_is_extracted_from_debug_output() {
        let error = r#"Os { code: 111, kind: ConnectionRefused, message: "Connection refused" }"#;
        assert_eq!(system_message(error), "Connection refused");
        assert_eq!(system_message("WRONGPASS invalid password"), "WRONGPASS invalid password");
        assert_eq!(system_message("message: \""), "message: \"");
    }
}
