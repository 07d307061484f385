//! `tidegate check`.

use std::collections::HashSet;
use std::error::Error;
use std::time::Duration;

use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tonic::transport::Endpoint;

use super::{Exit, GlobalArgs, Output, output};
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use proto::tidegate::v1::{CheckRequest, CheckResponse};

/// How long to wait for an answer.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Args)]
pub struct Check {
    /// Node to ask: http://host:port or grpc://host:port
    #[arg(long, default_value = "http://127.0.0.1:8080", value_name = "URL")]
    addr: String,
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
        let asked = runtime
            .map_err(Into::into)
            .and_then(|runtime| runtime.block_on(async { tokio::time::timeout(PATIENCE, self.ask()).await })?);
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
                        eprintln!("  {}: {}", text(error, "pointer"), text(error, "detail"));
                    }
                    if global.output == Output::Json {
                        outln!("{answer}");
                    }
                    Exit::Failed
                }
            },
            Err(error) => {
                eprintln!("{}: {error}", self.addr);
                Exit::Failed
            }
        }
    }

    async fn ask(&self) -> Result<Value, Box<dyn Error>> {
        match self.addr.split_once("://") {
            Some(("http", host)) => self.ask_http(host.trim_end_matches('/')).await,
            Some(("grpc", host)) => self.ask_grpc(host.trim_end_matches('/')).await,
            _ => Err("expected http://host:port or grpc://host:port".into()),
        }
    }

    async fn ask_http(&self, host: &str) -> Result<Value, Box<dyn Error>> {
        let attributes: serde_json::Map<_, _> =
            self.attributes.iter().map(|(key, value)| (key.clone(), value.as_str().into())).collect();
        let body = serde_json::json!({ "domain": self.domain, "attributes": attributes, "hits": self.hits });
        let stream = tokio::net::TcpStream::connect(host).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        #[expect(clippy::disallowed_methods, reason = "the connection ends with its only request")]
        tokio::spawn(connection);
        let request = hyper::Request::post("/v1/check")
            .header("host", host)
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body.to_string())))?;
        let response = sender.send_request(request).await?;
        let body = response.into_body().collect().await?.to_bytes();
        serde_json::from_slice(&body)
            .map_err(|_| format!("expected JSON, not {}", String::from_utf8_lossy(&body)).into())
    }

    async fn ask_grpc(&self, host: &str) -> Result<Value, Box<dyn Error>> {
        let channel = Endpoint::from_shared(format!("http://{host}"))?.connect().await?;
        let request = CheckRequest {
            domain: self.domain.clone(),
            attributes: self.attributes.iter().cloned().collect(),
            hits: Some(self.hits),
            ..CheckRequest::default()
        };
        let answer = RateLimitServiceClient::new(channel).check(request).await;
        Ok(json(&answer.map_err(|status| format!("{:?}: {}", status.code(), status.message()))?.into_inner()))
    }
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
