//! Sends a call to one node after another.

#![expect(clippy::disallowed_methods, reason = "a client runs in other programs, without the node's Clock port")]

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::client::legacy::Client as HttpClient;
use hyper_util::client::legacy::connect::Connect;
use tokio::time::{Instant, timeout_at};

use crate::check::CARRIED;

/// How long a node that failed is asked only after the others.
const PAUSE: Duration = Duration::from_secs(1);
/// How often a call is sent at most.
const MAX_TRIES: usize = 2;

/// The longest header that is carried, in bytes. A user may choose these headers, and a node closes a connection whose
/// head is too long, which looks like a failure.
const MAX_HEADER: usize = 1024;

/// The nodes, and how they are reached.
#[derive(Debug)]
pub(crate) struct Nodes<C> {
    nodes: Vec<Node>,
    least: Duration,
    authorization: Option<HeaderValue>,
    http: HttpClient<C, Full<Bytes>>,
}

#[derive(Debug)]
struct Node {
    urls: Urls,
    paused_until: Mutex<Option<Instant>>,
}

/// The URLs of a node.
#[derive(Debug)]
pub(crate) struct Urls {
    /// `/v1/check`
    pub(crate) one: Uri,
    /// `/v1/checks`
    pub(crate) many: Uri,
}

/// A request to a node.
pub(crate) struct Call<'a> {
    /// True for a batch.
    pub(crate) many: bool,
    pub(crate) body: Bytes,
    /// The headers of the request on whose behalf is asked.
    pub(crate) headers: &'a HeaderMap,
    /// How many bytes of the answer are read.
    pub(crate) max_answer: usize,
}

/// The answer of a node, with a status below 500.
pub(crate) struct Reply {
    pub(crate) url: String,
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl<C: Connect + Clone + Send + Sync + 'static> Nodes<C> {
    /// Returns the nodes with these URLs. A node that fails in a try of less than `least` may be well, and is not
    /// paused.
    pub(crate) fn new(
        urls: Vec<Urls>,
        least: Duration,
        authorization: Option<HeaderValue>,
        http: HttpClient<C, Full<Bytes>>,
    ) -> Self {
        let node = |urls| Node { urls, paused_until: Mutex::default() };
        Self { nodes: urls.into_iter().map(node).collect(), least, authorization, http }
    }

    /// Sends a call to one node after another until one answers or the time is over. The error says why none answered.
    pub(crate) async fn send(&self, call: &Call<'_>, end: Instant) -> Result<Reply, String> {
        let mut failures = Vec::new();
        for (at, node) in self.order(Instant::now()).into_iter().enumerate() {
            let left = end.saturating_duration_since(Instant::now());
            // The first try leaves time for another node.
            let timeout = if at == 0 && self.nodes.len() > 1 { left / 2 } else { left };
            let url = if call.many { &node.urls.many } else { &node.urls.one };
            match self.ask(url, call, timeout).await {
                Ok(reply) => return Ok(reply),
                Err(why) => failures.push(format!("{url}: {why}")),
            }
            let now = Instant::now();
            if timeout >= self.least {
                node.pause(now + PAUSE);
            }
            if now >= end {
                break;
            }
        }
        Err(format!("no node answered: {}", failures.join("; ")))
    }

    /// Sends a call to one node, and reads its answer within `timeout`.
    async fn ask(&self, url: &Uri, call: &Call<'_>, timeout: Duration) -> Result<Reply, String> {
        let end = Instant::now() + timeout;
        let late = |_| format!("no answer within {timeout:?}");
        let mut request = Request::new(Full::new(call.body.clone()));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = url.clone();
        let headers = request.headers_mut();
        for name in CARRIED {
            let values = call.headers.get_all(name);
            // Each value has a line of its own.
            if values.iter().map(|value| value.len() + name.len()).sum::<usize>() <= MAX_HEADER {
                for value in values {
                    headers.append(name, value.clone());
                }
            }
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        let answer = timeout_at(end, self.http.request(request)).await.map_err(late)?;
        let answer = answer.map_err(|error| explain(&error))?;
        let (head, body) = answer.into_parts();
        if head.status.is_server_error() {
            return Err(head.status.to_string());
        }
        let body = match timeout_at(end, Limited::new(body, call.max_answer).collect()).await {
            Ok(Ok(body)) => body.to_bytes(),
            // A body that is too long is not that of a node.
            Ok(Err(error)) if error.is::<LengthLimitError>() => Bytes::new(),
            // A status of 4xx refuses the check even if its body cannot be read.
            _ if head.status.is_client_error() => Bytes::new(),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(error) => return Err(late(error)),
        };
        Ok(Reply { url: url.to_string(), status: head.status, headers: head.headers, body })
    }

    /// The nodes that a call asks: those that did not just fail come first.
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

impl Node {
    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|end| now < end)
    }

    fn pause(&self, end: Instant) {
        *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
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

#[cfg(test)]
mod tests {
    use hyper_util::client::legacy::connect::HttpConnector;
    use hyper_util::rt::TokioExecutor;

    use super::*;

    #[tokio::test]
    async fn a_node_that_fails_is_paused_unless_its_try_was_short() {
        // Nobody listens on this port.
        let url = |path| format!("http://127.0.0.1:1{path}").parse().unwrap();
        let (headers, patience) = (HeaderMap::new(), Duration::from_secs(20));
        for (least, paused) in [(patience / 4, true), (patience, false)] {
            let urls = [(); 2].map(|()| Urls { one: url("/v1/check"), many: url("/v1/checks") });
            let http = HttpClient::builder(TokioExecutor::new()).build(HttpConnector::new());
            let nodes = Nodes::new(urls.into(), least, None, http);
            let call = Call { many: false, body: Bytes::new(), headers: &headers, max_answer: 1 };
            assert!(nodes.send(&call, Instant::now() + patience).await.is_err());
            for node in &nodes.nodes {
                assert_eq!(node.is_paused(Instant::now()), paused, "{least:?}");
            }
        }
    }
}
