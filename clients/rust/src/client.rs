//! Asks nodes, one after another, within a deadline.

#![expect(clippy::disallowed_methods, reason = "a client runs in other programs, without the node's Clock port")]

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::{Connect, HttpConnector};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use tokio::time::timeout_at;

use crate::decision::Answer;
use crate::denials::Denials;
use crate::{Check, Config, ConfigError, Decision, FailMode, FieldError};

/// How long a node that failed is asked only after the others.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a check is sent at most.
const MAX_TRIES: usize = 2;
/// The longest body that a node takes. A node may close the connection of a longer one before its answer is read, which
/// looks like a failure.
const MAX_BODY: usize = 64 * 1024;
/// The largest answer that is read, in bytes.
const MAX_ANSWER: usize = 1 << 20;
/// How long a connection without a request stays open. A node ends it after a longer time.
const IDLE: Duration = Duration::from_secs(30);

/// Asks the nodes of a region. Clones share connections and denials.
#[derive(Clone, Debug)]
pub struct Client<C = HttpConnector>(Arc<Shared<C>>);

#[derive(Debug)]
struct Shared<C> {
    config: Config,
    nodes: Vec<Node>,
    authorization: Option<HeaderValue>,
    http: HttpClient<C, Full<Bytes>>,
    denials: Mutex<Denials>,
}

#[derive(Debug)]
struct Node {
    url: Uri,
    paused_until: Mutex<Option<Instant>>,
}

/// A node does not take a check: 400, 401 without a decision, 403, 413 and so on. The fail mode never applies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejected {
    pub status: StatusCode,
    pub title: String,
    pub errors: Vec<FieldError>,
}

/// Why there is no decision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    #[error("the node rejected the check with {}: {}{}", .0.status, .0.title, .0.text())]
    Rejected(Rejected),
    /// The answer is not that of a node.
    #[error("{url}: expected the answer of a node, not {status}")]
    NoNode { url: String, status: StatusCode },
}

/// Why a node gave no answer. The next one may give one.
struct Failed(String);

impl Rejected {
    fn text(&self) -> String {
        self.errors.iter().map(|error| format!("; {}: {}", error.pointer, error.detail)).collect()
    }
}

#[derive(serde::Deserialize, Default)]
struct Problem {
    #[serde(default)]
    title: String,
    #[serde(default)]
    errors: Vec<FieldError>,
}

impl Client {
    /// Returns a client for nodes without TLS. It opens no connection yet.
    ///
    /// # Errors
    /// The field of `config` that is wrong. A node with `https` needs [`Client::with_connector`].
    pub fn new(config: Config) -> Result<Self, ConfigError> {
        let (urls, _) = config.read()?;
        if let Some(at) = urls.iter().position(|url| url.scheme_str() != Some("http")) {
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
        let node = |url| Node { url, paused_until: Mutex::default() };
        let denials = Mutex::new(Denials::new(config.denial_cache_size, config.denial_cache_longest));
        let (nodes, http) = (urls.into_iter().map(node).collect(), http.build(connector));
        Ok(Self(Arc::new(Shared { config, nodes, authorization, http, denials })))
    }

    /// Asks whether a request may pass. Returns within the deadline.
    ///
    /// If a node cannot be reached, does not answer within its part of the deadline, or answers with a status of 5xx,
    /// the next node is asked, once. A check that a node charged before it failed is then charged twice. If no node
    /// answers, the fail mode decides.
    ///
    /// # Errors
    /// A node rejects the check, or the answer is not that of a node. The fail mode never applies to these.
    pub async fn check(&self, check: &Check) -> Result<Decision, CheckError> {
        let (shared, key, start) = (&*self.0, check.key(), Instant::now());
        if let Some(denial) = shared.lock_denials().find(&key, check.hits, start) {
            return Ok(denial);
        }
        let body = Bytes::from(check.body());
        if body.len() > MAX_BODY {
            let title = "expected a body of at most 64 KiB".to_owned();
            let rejected = Rejected { status: StatusCode::PAYLOAD_TOO_LARGE, title, errors: Vec::new() };
            return Err(CheckError::Rejected(rejected));
        }
        let mut failures = Vec::new();
        let nodes = shared.order(start);
        for (at, node) in nodes.iter().enumerate() {
            let left = shared.config.deadline.saturating_sub(start.elapsed());
            // The first try leaves time for another one.
            let timeout = if at + 1 < nodes.len() { left / 2 } else { left };
            let Failed(why) = match shared.ask(node, body.clone(), check, timeout).await {
                Ok(answer) => {
                    let decision = answer?;
                    shared.lock_denials().add(key, check.hits, &decision, Instant::now());
                    return Ok(decision);
                }
                Err(failed) => failed,
            };
            node.pause(Instant::now() + PAUSE);
            failures.push(format!("{}: {why}", node.url));
        }
        let allowed = shared.config.fail_mode == FailMode::Allow;
        Ok(Decision::of_fail_mode(allowed, format!("no node answered: {}", failures.join("; "))))
    }
}

impl<C> Shared<C> {
    fn lock_denials(&self) -> std::sync::MutexGuard<'_, Denials> {
        self.denials.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The nodes that a check asks: those that did not just fail come first.
    fn order(&self, now: Instant) -> Vec<&Node> {
        let (mut all, paused): (Vec<&Node>, Vec<&Node>) = self.nodes.iter().partition(|node| !node.is_paused(now));
        all.extend(paused);
        // One address may stand for several nodes: a second try may reach another one.
        if let [only] = all[..] {
            all.push(only);
        }
        all.truncate(MAX_TRIES);
        all
    }
}

impl<C: Connect + Clone + Send + Sync + 'static> Shared<C> {
    /// Sends a check to one node, and reads its answer within `timeout`.
    async fn ask(
        &self,
        node: &Node,
        body: Bytes,
        check: &Check,
        timeout: Duration,
    ) -> Result<Result<Decision, CheckError>, Failed> {
        let end = tokio::time::Instant::now() + timeout;
        let late = |_| Failed(format!("no answer within {timeout:?}"));
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = node.url.clone();
        let headers = request.headers_mut();
        headers.extend(check.headers.clone());
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let answer = timeout_at(end, self.http.request(request)).await.map_err(late)?;
        let answer = answer.map_err(|error| Failed(explain(&error)))?;
        let (head, body) = answer.into_parts();
        if head.status.is_server_error() {
            return Err(Failed(head.status.to_string()));
        }
        let body = match timeout_at(end, Limited::new(body, MAX_ANSWER).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            // A status of 4xx refuses the check even if its body cannot be read.
            _ if head.status.is_client_error() => Bytes::new(),
            Ok(Err(error)) => return Err(Failed(error.to_string())),
            Err(error) => return Err(late(error)),
        };
        if matches!(head.status, StatusCode::OK | StatusCode::TOO_MANY_REQUESTS | StatusCode::UNAUTHORIZED)
            && let Ok(answer) = serde_json::from_slice::<Answer>(&body)
        {
            return Ok(Ok(answer.decision(head.status, &head.headers)));
        }
        if head.status == StatusCode::TOO_MANY_REQUESTS {
            return Ok(Ok(Decision::of_status(head.status, &head.headers)));
        }
        if !head.status.is_client_error() {
            return Ok(Err(CheckError::NoNode { url: node.url.to_string(), status: head.status }));
        }
        let Problem { title, errors } = serde_json::from_slice(&body).unwrap_or_default();
        Ok(Err(CheckError::Rejected(Rejected { status: head.status, title, errors })))
    }
}

/// An error with its causes.
fn explain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

impl Node {
    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|end| now < end)
    }

    fn pause(&self, end: Instant) {
        *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
    }
}
