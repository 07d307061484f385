//! Asks nodes within a deadline.

#![expect(clippy::disallowed_methods, reason = "a client runs in other programs, without the node's Clock port")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde::Serialize;
use tokio::time::Instant;

use crate::denials::Denials;
use crate::nodes::{Call, Nodes};
use crate::places::Places;
use crate::{Check, CheckError, Config, ConfigError, Decision, FailMode, Rejected};

/// The longest bodies that a node takes, of a check and of a batch. A node may close the connection of a longer one
/// before its answer is read, which looks like a failure.
const MAX_BODY: usize = 64 * 1024;
const MAX_BATCH_BODY: usize = 1 << 20;
/// The largest answers that are read, in bytes.
const MAX_ANSWER: usize = 1 << 20;
const MAX_BATCH_ANSWER: usize = 16 << 20;
/// How long a connection without a request stays open. A node ends it after a longer time.
const IDLE: Duration = Duration::from_secs(30);

/// Asks the nodes of a region. Clones share connections, denials and the bound of calls in flight.
#[derive(Clone, Debug)]
pub struct Client<C = HttpConnector>(Arc<Shared<C>>);

#[derive(Debug)]
struct Shared<C> {
    config: Config,
    nodes: Nodes<C>,
    places: Places,
    denials: Mutex<Denials>,
}

/// The body of a batch.
#[derive(Serialize)]
struct Batch<'a> {
    checks: &'a [Check],
}

impl Client {
    /// Returns a client for nodes without TLS. It opens no connection yet.
    ///
    /// # Errors
    /// The field of `config` that is wrong. A node with `https` needs [`Client::with_connector`].
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let (urls, _) = config.read()?;
        if let Some(at) = urls.iter().position(|urls| urls.one.scheme_str() != Some("http")) {
            let expected = "expected http; use Client::with_connector for https".to_owned();
            return Err(ConfigError { field: format!("nodes[{at}]"), expected });
        }
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(config.deadline));
        connector.set_nodelay(true);
        Self::with_connector(config, connector)
    }
}

impl<C: Connect + Clone + Send + Sync + 'static> Client<C> {
    /// Returns a client that connects with `connector`, for example one of `hyper-rustls`.
    ///
    /// # Errors
    /// The field of `config` that is wrong.
    pub fn with_connector(config: Config, connector: C) -> Result<Self, ConfigError> {
        let (urls, authorization) = config.read()?;
        let mut http = HttpClient::builder(TokioExecutor::new());
        http.pool_timer(TokioTimer::new()).pool_idle_timeout(IDLE);
        let nodes = Nodes::new(urls, config.least_time(), authorization, http.build(connector));
        let denials = Mutex::new(Denials::new(config.denial_cache_size, config.denial_cache_longest));
        let places = Places::new(config.max_in_flight, config.least_time());
        Ok(Self(Arc::new(Shared { config, nodes, places, denials })))
    }

    /// Asks whether a request may pass. Returns within the deadline.
    ///
    /// If a node cannot be reached, does not answer within its part of the deadline, or answers with a status of 5xx,
    /// the next node is asked, once. A check that a node charged before it failed is then charged twice. If no node
    /// answers, the fail mode decides. While [`Config::max_in_flight`] calls are in flight, the check waits, and its
    /// wait counts against the deadline. A check that waited is not sent if less than a quarter of the deadline is
    /// left: the fail mode decides.
    ///
    /// # Errors
    /// A node rejects the check, or the answer is not that of a node. The fail mode never applies to these.
    pub async fn check(&self, check: &Check) -> Result<Decision, CheckError> {
        let (shared, key, hits) = (&*self.0, check.key(), check.hits_of_denial());
        if let Some(denial) = shared.remembered(&key, hits) {
            return Ok(denial);
        }
        let call = Call { many: false, body: body(check, MAX_BODY)?, headers: &check.headers, max_answer: MAX_ANSWER };
        let end = Instant::now() + shared.config.deadline;
        let _place = match shared.places.take(end).await {
            Ok(place) => place,
            Err(why) => return Ok(shared.fail_mode(why)),
        };
        // While the check waited, another one may have been denied.
        if let Some(denial) = shared.remembered(&key, hits) {
            return Ok(denial);
        }
        let reply = match shared.nodes.send(&call, end).await {
            Ok(reply) => reply,
            Err(why) => return Ok(shared.fail_mode(why)),
        };
        let decision = reply.decision()?;
        shared.lock_denials().add(key, hits, &decision, Instant::now().into_std());
        Ok(decision)
    }

    /// Asks about up to 1,000 checks in one call. Each is decided for itself, and the results have the order of the
    /// checks.
    ///
    /// This does what [`check`](Self::check) does, except that the decisions have no headers, that denials are neither
    /// remembered nor found in the denial cache, and that the headers of the first check are sent for all of them.
    ///
    /// # Errors
    /// A node rejects the whole batch, or the answer is not that of a node. The error of a single result says that the
    /// node rejects this check.
    pub async fn check_all(&self, checks: &[Check]) -> Result<Vec<Result<Decision, Rejected>>, CheckError> {
        let Some(Check { headers, .. }) = checks.first() else { return Ok(Vec::new()) };
        let shared = &*self.0;
        let body = body(&Batch { checks }, MAX_BATCH_BODY)?;
        let call = Call { many: true, body, headers, max_answer: MAX_BATCH_ANSWER };
        let end = Instant::now() + shared.config.deadline;
        let all = |why: String| checks.iter().map(|_| Ok(shared.fail_mode(why.clone()))).collect();
        let _place = match shared.places.take(end).await {
            Ok(place) => place,
            Err(why) => return Ok(all(why)),
        };
        match shared.nodes.send(&call, end).await {
            Ok(reply) => reply.decisions(checks.len(), |why| shared.fail_mode(why)),
            Err(why) => Ok(all(why)),
        }
    }
}

impl<C> Shared<C> {
    fn lock_denials(&self) -> std::sync::MutexGuard<'_, Denials> {
        self.denials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The earlier denial that covers a check.
    fn remembered(&self, key: &str, hits: u32) -> Option<Decision> {
        self.lock_denials().find(key, hits, Instant::now().into_std())
    }

    fn fail_mode(&self, why: String) -> Decision {
        Decision::of_fail_mode(self.config.fail_mode == FailMode::Allow, why)
    }
}

/// Returns a value as JSON of at most `most` bytes.
fn body(value: &impl Serialize, most: usize) -> Result<Bytes, CheckError> {
    let json = serde_json::to_vec(value).unwrap_or_default();
    if json.len() <= most {
        return Ok(json.into());
    }
    let title = format!("expected a body of at most {} KiB", most / 1024);
    Err(CheckError::Rejected(Rejected { status: StatusCode::PAYLOAD_TOO_LARGE, title, errors: Vec::new() }))
}
