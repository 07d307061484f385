//! The HTTP face: `/v1/check`, `/health`, `/ready`.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::limiter::decision::{Check, Decision, Descriptor};
use crate::limiter::time::millis_up;
use crate::ports::Limiter;

/// The largest body, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// The longest attribute value, in bytes.
const MAX_VALUE: usize = 4096;

/// The routes of one core.
pub fn routes(limiter: Arc<dyn Limiter>, ready: Arc<dyn Fn() -> bool + Send + Sync>) -> Router {
    let live = || get(async || "ok\n");
    let readiness = move || {
        let ready = Arc::clone(&ready);
        get(move || async move {
            if ready() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "no rules yet\n") }
        })
    };
    Router::new()
        .route("/v1/check", post(check))
        .route("/health", live())
        .route("/livez", live())
        .route("/ready", readiness())
        .route("/readyz", readiness())
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(limiter)
}

/// One error of a request: where in the body, and what was expected.
#[derive(Debug, Serialize)]
struct Fault {
    pointer: String,
    detail: String,
}

fn fault(pointer: impl Into<String>, detail: impl Into<String>) -> Fault {
    Fault { pointer: pointer.into(), detail: detail.into() }
}

/// A problem document (RFC 9457).
fn problem(status: StatusCode, title: &str, errors: Vec<Fault>) -> Response {
    let body = serde_json::json!({ "title": title, "status": status.as_u16(), "errors": errors });
    (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response()
}

#[derive(Deserialize)]
struct Options {
    status: Option<u16>,
}

async fn check(
    State(limiter): State<Arc<dyn Limiter>>,
    Query(options): Query<Options>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let request = match Request::parse(&body) {
        Ok(request) => request,
        Err(errors) => return problem(StatusCode::BAD_REQUEST, "the check is not valid", errors),
    };
    let answer = {
        let entries: Vec<Vec<(&str, &str)>> =
            request.descriptors.iter().map(|d| d.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()).collect();
        let hits = request.hits;
        let descriptors: Vec<Descriptor<'_>> =
            entries.iter().map(|entries| Descriptor { entries, hits, limit: None }).collect();
        limiter.check(&Check { domain: &request.domain, descriptors: &descriptors })
    };
    let id = headers.get("x-request-id").and_then(|id| id.to_str().ok()).map(ToOwned::to_owned);
    match answer.get().await {
        Ok(decision) => respond(&decision, id.unwrap_or_default(), options.status == Some(200)),
        Err(refusal) => problem(StatusCode::SERVICE_UNAVAILABLE, &refusal.to_string(), Vec::new()),
    }
}

/// A request that was read and makes sense.
struct Request {
    domain: String,
    hits: u32,
    descriptors: Vec<Vec<(String, String)>>,
}

impl Request {
    fn parse(body: &[u8]) -> Result<Self, Vec<Fault>> {
        let object: Map<String, Value> =
            serde_json::from_slice(body).map_err(|e| vec![fault("", format!("expected a JSON object: {e}"))])?;
        let mut faults = Vec::new();
        for key in object.keys().filter(|k| !["domain", "hits", "attributes", "descriptors"].contains(&k.as_str())) {
            let pointer = format!("/{}", escape(key));
            faults.push(fault(pointer, "expected one of domain, attributes, descriptors, hits; this field is unknown"));
        }
        let domain = match object.get("domain") {
            Some(Value::String(domain)) if !domain.is_empty() => domain.clone(),
            _ => {
                faults.push(fault("/domain", "expected a non-empty string: it is required"));
                String::new()
            }
        };
        let hits = match object.get("hits") {
            None => 1,
            Some(hits) => hits.as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or_else(|| {
                faults.push(fault("/hits", format!("expected a whole number from 0 to {}", u32::MAX)));
                1
            }),
        };
        let descriptors = match (object.get("attributes"), object.get("descriptors")) {
            (Some(_), Some(_)) => {
                faults.push(fault("/descriptors", "expected either attributes or descriptors, not both"));
                Vec::new()
            }
            (None, None) => vec![Vec::new()],
            (Some(one), None) => vec![attributes(one, "/attributes", &mut faults)],
            (None, Some(Value::Array(all))) if !all.is_empty() => {
                let each = all.iter().enumerate();
                each.map(|(at, one)| attributes(one, &format!("/descriptors/{at}"), &mut faults)).collect()
            }
            (None, Some(_)) => {
                faults.push(fault("/descriptors", "expected a list of at least one object"));
                Vec::new()
            }
        };
        if faults.is_empty() { Ok(Self { domain, hits, descriptors }) } else { Err(faults) }
    }
}

fn attributes(value: &Value, pointer: &str, faults: &mut Vec<Fault>) -> Vec<(String, String)> {
    let Value::Object(map) = value else {
        faults.push(fault(pointer, "expected an object of strings"));
        return Vec::new();
    };
    let mut all = Vec::with_capacity(map.len());
    for (key, value) in map {
        let pointer = format!("{pointer}/{}", escape(key));
        match value {
            Value::String(text) if text.len() <= MAX_VALUE => all.push((key.clone(), text.clone())),
            Value::String(_) => faults.push(fault(pointer, "expected a string of at most 4096 bytes")),
            Value::Number(n) => faults.push(fault(pointer, format!("expected a string: quote it, \"{n}\""))),
            _ => faults.push(fault(pointer, "expected a string")),
        }
    }
    all
}

/// A member name in a JSON pointer (RFC 6901).
fn escape(key: &str) -> String {
    key.replace('~', "~0").replace('/', "~1")
}

#[derive(Serialize)]
struct Body<'d> {
    allowed: bool,
    degraded: bool,
    revision: u64,
    request_id: String,
    retry_after_ms: Option<u64>,
    limits: Vec<Status<'d>>,
}

#[derive(Serialize)]
struct Status<'d> {
    name: &'d str,
    descriptor: usize,
    algorithm: &'static str,
    limit: Option<u64>,
    remaining: Option<u64>,
    window_ms: u64,
    reset_ms: u64,
    refused: bool,
    shadow: bool,
}

fn respond(decision: &Decision, request_id: String, always_200: bool) -> Response {
    let status = if decision.allowed || always_200 { StatusCode::OK } else { StatusCode::TOO_MANY_REQUESTS };
    let limits = decision.limits.iter().map(|limit| Status {
        name: &limit.effective.name,
        descriptor: limit.descriptor,
        algorithm: limit.effective.algorithm.as_str(),
        limit: limit.limit(),
        remaining: limit.remaining,
        window_ms: limit.effective.window_ms,
        reset_ms: millis_up(limit.reset),
        refused: limit.refused,
        shadow: limit.shadow,
    });
    let body = Body {
        allowed: decision.allowed,
        degraded: decision.degraded,
        revision: decision.revision,
        request_id,
        retry_after_ms: decision.retry_after.map(millis_up),
        limits: limits.collect(),
    };
    let json = serde_json::to_vec(&body).unwrap_or_default();
    let mut response = (status, [(header::CONTENT_TYPE, "application/json")], json).into_response();
    for (name, value) in headers(decision) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            response.headers_mut().insert(name, value);
        }
    }
    response
}

/// `X-RateLimit-*` of the limit to show, `Retry-After`, and what refusing limits add.
fn headers(decision: &Decision) -> BTreeMap<String, String> {
    let mut all = BTreeMap::new();
    if let Some(limit) = decision.tightest()
        && let (Some(most), Some(remaining)) = (limit.limit(), limit.remaining)
    {
        all.insert("x-ratelimit-limit".to_owned(), most.to_string());
        all.insert("x-ratelimit-remaining".to_owned(), remaining.to_string());
        all.insert("x-ratelimit-reset".to_owned(), limit.reset.div_ceil(1_000_000).to_string());
    }
    if let Some(wait) = decision.retry_after {
        all.insert("retry-after".to_owned(), wait.div_ceil(1_000_000).to_string());
    }
    for limit in decision.limits.iter().filter(|l| l.refused && !l.shadow) {
        let extra = limit.effective.response_headers.iter();
        all.extend(extra.map(|(name, value)| (name.to_ascii_lowercase(), value.clone())));
    }
    all
}
