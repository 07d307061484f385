//! `tidegate check`.

use std::collections::HashSet;
use std::error::Error as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::header::{AUTHORIZATION, HeaderValue};
use serde_json::Value;

use super::node_address::{NodeAddress, Protocol, TlsArgs};
use super::{Exit, GlobalArgs, Output, output};
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use proto::tidegate::v1::{CheckRequest, CheckResponse};

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub struct Check {
    /// Node to ask: http://host:port or grpc://host:port; https:// or grpcs:// if the node has `tls`
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    addr: String,
    #[command(flatten)]
    tls: TlsArgs,
    /// File with a bearer token, if the node has `auth.tokens_file`
    #[arg(long, value_name = "FILE")]
    token_file: Option<PathBuf>,
    #[arg(long)]
    domain: String,
    /// Attributes
    #[arg(value_name = "KEY=VALUE", value_parser = attribute)]
    attributes: Vec<(String, String)>,
    /// Hits to charge; 0 peeks
    #[arg(long, default_value_t = 1)]
    hits: u32,
}

pub fn attribute(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').filter(|(key, _)| !key.is_empty());
    pair.map(|(key, value)| (key.to_owned(), value.to_owned())).ok_or_else(|| "expected key=value".to_owned())
}

/// The name of the first attribute that is given twice.
fn repeated(attributes: &[(String, String)]) -> Option<&str> {
    let mut seen = HashSet::new();
    attributes.iter().map(|(name, _)| name.as_str()).find(|name| !seen.insert(*name))
}

impl Check {
    pub fn run(self, global: &GlobalArgs) -> Exit {
        if let Some(name) = repeated(&self.attributes) {
            eprintln!("{name}: expected this attribute once: a native check has a map of attributes");
            return Exit::Failed;
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let asked = runtime.map_err(|error| error.to_string()).and_then(|runtime| {
            runtime.block_on(async {
                let late = |_| format!("{}: no answer came in 10 s", self.addr);
                tokio::time::timeout(PATIENCE, self.ask()).await.map_err(late)?
            })
        });
        match asked {
            Ok(answer) => match answer.get("allowed").and_then(Value::as_bool) {
                Some(allowed) => {
                    output::decision(global.output, &answer);
                    if allowed { Exit::Ok } else { Exit::Denied }
                }
                // A problem document (RFC 9457).
                None => {
                    let text = |value: &Value, field: &str| value[field].as_str().unwrap_or_default().to_owned();
                    eprintln!("{}: {}", self.addr, text(&answer, "title"));
                    for error in answer["errors"].as_array().into_iter().flatten() {
                        eprintln!("  {}", output::field_error(error));
                    }
                    if global.output == Output::Json {
                        outln!("{answer}");
                    }
                    Exit::Failed
                }
            },
            Err(error) => {
                eprintln!("{error}");
                Exit::Failed
            }
        }
    }

    async fn ask(&self) -> Result<Value, String> {
        let node = NodeAddress::parse(&self.addr, &self.tls, &[Protocol::Http, Protocol::Grpc])?;
        let authorization = self.token_file.as_deref().map(authorization).transpose()?;
        match node.protocol {
            Protocol::Http => self.ask_http(&node, authorization).await,
            Protocol::Grpc => self.ask_grpc(&node, authorization).await,
        }
    }

    async fn ask_http(&self, node: &NodeAddress, authorization: Option<HeaderValue>) -> Result<Value, String> {
        let attributes: serde_json::Map<_, _> =
            self.attributes.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        let body = serde_json::json!({ "domain": self.domain, "attributes": attributes, "hits": self.hits });
        let mut request = hyper::Request::post("/v1/check")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| error.to_string())?;
        request.headers_mut().extend(authorization.map(|value| (AUTHORIZATION, value)));
        let body = node.send(request).await?.into_body();
        serde_json::from_slice(&body)
            .map_err(|_| format!("{}: expected JSON, not {}", self.addr, String::from_utf8_lossy(&body)))
    }

    async fn ask_grpc(&self, node: &NodeAddress, authorization: Option<HeaderValue>) -> Result<Value, String> {
        let mut request = tonic::Request::new(CheckRequest {
            domain: self.domain.clone(),
            attributes: self.attributes.iter().cloned().collect(),
            hits: Some(self.hits),
            ..CheckRequest::default()
        });
        if let Some(value) = authorization.as_ref().and_then(|value| value.to_str().ok()?.parse().ok()) {
            request.metadata_mut().insert(AUTHORIZATION.as_str(), value);
        }
        let answer = RateLimitServiceClient::new(node.channel().await?).check(request).await;
        let answer = answer.map_err(|status| match status.source() {
            // No answer of the node, but an error of the connection.
            Some(error) => node.explain(error),
            None => format!("{}: {:?}: {}", self.addr, status.code(), status.message()),
        })?;
        Ok(json(&answer.into_inner()))
    }
}

/// The value of `Authorization` with the token in a file.
fn authorization(file: &Path) -> Result<HeaderValue, String> {
    let token = std::fs::read_to_string(file).map_err(|error| format!("--token-file: {}: {error}", file.display()))?;
    HeaderValue::try_from(format!("Bearer {}", token.trim()))
        .map_err(|_| format!("--token-file: {}: expected one token of visible ASCII characters", file.display()))
}

/// The answer in the JSON of `/v1/check`.
fn json(answer: &CheckResponse) -> Value {
    let limits = answer.limits.iter().map(|limit| {
        serde_json::json!({
            "name": limit.name,
            "descriptor": limit.descriptor,
            "algorithm": limit.algorithm,
            "limit": limit.limit,
            "remaining": limit.remaining,
            "window_ms": limit.window_ms,
            "reset_ms": limit.reset_ms,
            "refused": limit.refused,
            "shadow": limit.shadow,
        })
    });
    serde_json::json!({
        "allowed": answer.allowed,
        "degraded": answer.degraded,
        "revision": answer.revision,
        "request_id": answer.request_id,
        "retry_after_ms": answer.retry_after_ms,
        "limits": limits.collect::<Vec<_>>(),
    })
}
