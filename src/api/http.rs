//! The HTTP face.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tonic::{Code, Status};

use super::check_json::{self, Answer};
use super::desk::Desk;
use super::request_id::RequestId;
use super::status::{Fault, Rejection, fault};
use super::{authorize, headers, request_id};
use crate::ports::Unavailable;
use limiter::{Check, Decision, Descriptor, Overload};

/// The largest body, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// How long a request may take to come in and be answered.
const MAX_TIME: Duration = Duration::from_secs(10);

/// The routes of one core.
pub fn routes(desk: Arc<Desk>) -> Router {
    let live = || get(async || "ok\n");
    Router::new()
        .route("/v1/check", post(check))
        .route("/v1/authorize", any(authorize::authorize))
        .route("/health", live())
        .route("/livez", live())
        .route("/ready", get(ready))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(async |desk, headers| refuse(desk, headers, Rejection::NoSuchPath))
        .method_not_allowed_fallback(async |desk, headers| refuse(desk, headers, Rejection::WrongMethod))
        .layer(from_fn_with_state(Arc::clone(&desk), in_time))
        .with_state(desk)
}

async fn in_time(State(desk): State<Arc<Desk>>, request: Request, next: Next) -> Response {
    let headers = request.headers().get(request_id::HEADER).cloned();
    let answer = tokio::time::timeout(MAX_TIME, next.run(request)).await;
    answer.unwrap_or_else(|_| {
        let headers = headers.map(|id| (HeaderName::from_static(request_id::HEADER), id)).into_iter().collect();
        refuse(State(desk), headers, Rejection::TooSlow)
    })
}

/// The answer to what is no check at all.
fn refuse(State(desk): State<Arc<Desk>>, headers: HeaderMap, rejection: Rejection) -> Response {
    let id = take_id(&desk, &headers);
    with_id(desk.reject(rejection, &id).into_response(), &id)
}

async fn ready(State(desk): State<Arc<Desk>>) -> Response {
    let readiness = desk.node.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(readiness)).into_response()
}

async fn metrics(State(desk): State<Arc<Desk>>) -> Response {
    match desk.metrics.render(&desk.node.figures()) {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "metrics cannot be shown");
            Rejection::Internal.into_response()
        }
    }
}

async fn check(State(desk): State<Arc<Desk>>, RawQuery(query): RawQuery, headers: HeaderMap, body: Body) -> Response {
    let id = take_id(&desk, &headers);
    let answer = match answer_check(&desk, query.as_deref(), &headers, body, &id).await {
        Ok((decision, refusal)) => {
            let json = serde_json::to_vec(&Answer::new(&decision, &id.to_string())).unwrap_or_default();
            decided(&decision, refusal, ([(header::CONTENT_TYPE, "application/json")], json).into_response())
        }
        // What the limiter did not decide is counted already.
        Err(rejection @ Rejection::Undecided(_)) => rejection.into_response(),
        Err(rejection) => desk.reject(rejection, &id).into_response(),
    };
    with_id(answer, &id)
}

/// The decision, and the status that a refusal is answered with.
async fn answer_check(
    desk: &Desk,
    query: Option<&str>,
    headers: &HeaderMap,
    body: Body,
    id: &RequestId<'_>,
) -> Result<(Decision, StatusCode), Rejection> {
    let mut faults = Vec::new();
    let mut refusal = StatusCode::TOO_MANY_REQUESTS;
    for (key, value) in parameters(query) {
        match (key.as_str(), value.as_str()) {
            ("status", "200") => refusal = StatusCode::OK,
            ("status", _) => faults.push(fault("?status", "expected 200")),
            _ => faults.push(unknown_parameter(&key, "status")),
        }
    }
    is_json(headers)?;
    let body = whole(body).await?;
    let request = match check_json::Request::parse(&body) {
        Ok(request) if faults.is_empty() => request,
        parsed => {
            faults.extend(parsed.err().unwrap_or_default());
            return Err(Rejection::Invalid(faults));
        }
    };
    let entries: Vec<Vec<(&str, &str)>> =
        request.descriptors.iter().map(|d| d.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()).collect();
    let hits = request.hits;
    let descriptors: Vec<Descriptor<'_>> =
        entries.iter().map(|entries| Descriptor { entries, ordered: false, hits, limit: None }).collect();
    let check = Check { domain: &request.domain, descriptors: &descriptors };
    Ok((desk.decide(&check, None, id).await?, refusal))
}

/// All of a body. Pieces are copied together as they come: each of them would keep the buffer alive that it was read into,
/// so that a body in pieces of one byte would hold thousands of times its size.
async fn whole(mut body: Body) -> Result<Bytes, Rejection> {
    let torn = |error: axum::Error| match error.into_inner().downcast::<Status>() {
        Ok(status) if status.code() == Code::Unavailable => {
            Rejection::Undecided(Unavailable::Overloaded(Overload::TooManyWaiting))
        }
        _ => Rejection::Invalid(vec![fault("", "expected a whole body")]),
    };
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(torn)?.into_data() else { continue };
        if read.len() + piece.len() > MAX_BODY {
            return Err(Rejection::TooLarge);
        }
        if read.is_empty() && body.is_end_stream() {
            return Ok(piece);
        }
        read.extend_from_slice(&piece);
    }
    Ok(read.freeze())
}

/// A body without a type, and what `curl -d` says by itself, are taken for JSON.
fn is_json(headers: &HeaderMap) -> Result<(), Rejection> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = given.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "" | "application/json" | "application/x-www-form-urlencoded" => Ok(()),
        other if other.starts_with("application/") && other.ends_with("+json") => Ok(()),
        _ => Err(Rejection::WrongMediaType),
    }
}

/// The parameters of a query, decoded.
pub fn parameters(query: Option<&str>) -> Vec<(String, String)> {
    form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect()
}

/// The fault of a parameter that nobody knows.
pub fn unknown_parameter(name: &str, known: &str) -> Fault {
    fault(format!("?{name}"), format!("expected one of {known}; this parameter is unknown"))
}

/// The id of a request.
pub fn take_id<'h>(desk: &Desk, headers: &'h HeaderMap) -> RequestId<'h> {
    desk.ids.take(headers.get(request_id::HEADER).and_then(|id| id.to_str().ok()))
}

/// `answer` with what a decision adds, and the status `refusal` when it refused.
pub fn decided(decision: &Decision, refusal: StatusCode, mut answer: Response) -> Response {
    headers::add(decision, answer.headers_mut());
    *answer.status_mut() = if decision.allowed { StatusCode::OK } else { refusal };
    answer
}

/// `answer` with the id of its request.
pub fn with_id(mut answer: Response, id: &RequestId<'_>) -> Response {
    if let Ok(id) = HeaderValue::try_from(id.to_string()) {
        answer.headers_mut().insert(HeaderName::from_static(request_id::HEADER), id);
    }
    answer
}
