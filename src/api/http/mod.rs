//! The HTTP front end of one core.

mod body;
mod check;
mod check_batch;
mod check_json;
pub mod forward_auth;
mod json;
mod web_page;

use std::collections::HashSet;
use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::{Extension, Router};
use hyper_util::service::TowerToHyperService;
use limiter::{Decision, IdentityProblem};
use tokio::net::TcpListener;

use self::forward_auth::ForwardAuth;
use super::bearer::has_valid_token;
use super::check_service::CheckService;
use super::rejection::{FieldViolation, Rejection, violation};
use super::request_id::RequestId;
use super::{headers, request_id};
use crate::ports::{ClientTokens, NodeStatus};
use crate::server::balance::Acceptor;
use crate::server::connection::{self, HEAD_TIMEOUT, Protocol};
use crate::server::timer::CoarseTimer;

/// How long a request may take to arrive and to be answered.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

/// The most headers of a request over HTTP/1. nginx passes on as many as fit into 32 KiB, and a client chooses them.
const MAX_HEADERS: usize = 4096;
/// The longest list of headers over HTTP/2, in bytes. A head over HTTP/1 may have 96 KiB.
const MAX_HEADER_LIST: u32 = 64 * 1024;

/// The address that a request comes from.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub IpAddr);

/// What the routes of one core need.
#[derive(Clone)]
pub struct HttpState {
    pub service: Arc<CheckService>,
    pub node: Arc<dyn NodeStatus>,
    pub forward_auth: Arc<ForwardAuth>,
    /// Checks need one of these tokens; `None` if they need none.
    pub tokens: Option<Arc<dyn ClientTokens>>,
    /// The origins whose web pages may ask for checks.
    pub origins: Arc<[HeaderValue]>,
}

/// The valid id that a request brings, as a copy: a check may wait, and its head is long.
fn given_id(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(request_id::HEADER).and_then(|id| id.to_str().ok());
    given.filter(|id| request_id::is_valid(id)).map(str::to_owned)
}

impl HttpState {
    /// The id of a request.
    fn take_id<'h>(&self, headers: &'h HeaderMap) -> RequestId<'h> {
        self.service.ids.take(headers.get(request_id::HEADER).and_then(|id| id.to_str().ok()))
    }
}

/// Serves HTTP/1 and HTTP/2 until `stop`, then until the requests in flight are answered.
pub async fn serve(listener: TcpListener, acceptor: Acceptor, state: HttpState, stop: impl Future<Output = ()>) {
    let mut builder = connection::builder();
    builder.http1().timer(CoarseTimer::new()).header_read_timeout(HEAD_TIMEOUT).max_headers(MAX_HEADERS);
    builder.http2().max_header_list_size(MAX_HEADER_LIST);
    let routes = routes(state);
    let service =
        |peer: SocketAddr| TowerToHyperService::new(routes.clone().layer(Extension(Peer(peer.ip().to_canonical()))));
    connection::serve(listener, acceptor, service, builder, Protocol::Http, stop).await;
}

/// The routes of one core.
pub fn routes(state: HttpState) -> Router {
    let live = || get(async || "ok\n");
    let mut checks =
        Router::new().route("/v1/check", post(check::check)).route("/v1/checks", post(check_batch::check_batch));
    let mut authorize = Router::new().route("/v1/authorize", any(forward_auth::authorize));
    if let Some(tokens) = &state.tokens {
        let authenticated = from_fn_with_state((state.clone(), Arc::clone(tokens)), authenticated);
        checks = checks.route_layer(authenticated.clone());
        authorize = authorize.route_layer(authenticated);
    }
    if !state.origins.is_empty() {
        // A preflight has a method that no route takes.
        checks = checks.method_not_allowed_fallback(wrong_method).layer(web_page::cors(&state.origins));
    }
    checks
        .merge(authorize)
        .route("/openapi.json", get(openapi))
        .route("/health", live())
        .route("/livez", live())
        .route("/ready", get(ready))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .fallback(async |state, headers| reject(state, headers, Rejection::NoSuchPath))
        .method_not_allowed_fallback(wrong_method)
        .layer(from_fn_with_state(state.clone(), in_time))
        .with_state(state)
}

async fn in_time(State(state): State<HttpState>, request: Request, next: Next) -> Response {
    let id = request.headers().get(request_id::HEADER).cloned();
    let answer = tokio::time::timeout(REQUEST_TIMEOUT, next.run(request)).await;
    answer.unwrap_or_else(|_| {
        let headers = id.map(|id| (HeaderName::from_static(request_id::HEADER), id)).into_iter().collect();
        reject(State(state), headers, Rejection::TooSlow)
    })
}

/// Describes the calls of this front end as OpenAPI.
async fn openapi() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("openapi.json"))
}

async fn wrong_method(state: State<HttpState>, headers: HeaderMap) -> Response {
    reject(state, headers, Rejection::WrongMethod)
}

/// Passes a check on if it has a valid token.
async fn authenticated(
    State((state, tokens)): State<(HttpState, Arc<dyn ClientTokens>)>,
    request: Request,
    next: Next,
) -> Response {
    if has_valid_token(&tokens, request.headers()) {
        return next.run(request).await;
    }
    state.service.warn_of_unauthorized_call("http");
    reject(State(state), request.headers().clone(), Rejection::Unauthorized)
}

/// The answer to a request that is no check.
fn reject(State(state): State<HttpState>, headers: HeaderMap, rejection: Rejection) -> Response {
    let id = state.take_id(&headers);
    with_id(state.service.reject(rejection, &id).into_response(), &id)
}

async fn ready(State(state): State<HttpState>) -> Response {
    let readiness = state.node.readiness();
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, axum::Json(readiness)).into_response()
}

async fn metrics(State(state): State<HttpState>) -> Response {
    match state.node.metrics().await {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], text).into_response(),
        Err(error) => {
            tracing::error!(error, "the metrics cannot be rendered");
            Rejection::Internal.into_response()
        }
    }
}

/// The parameters of a query, decoded. A repeated one is a violation.
fn parameters(query: Option<&str>, violations: &mut Vec<FieldViolation>) -> Vec<(String, String)> {
    let mut seen = HashSet::new();
    let all = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned();
    all.inspect(|(key, _)| {
        if !seen.insert(key.clone()) {
            violations.push(violation(format!("?{key}"), "expected this parameter at most once"));
        }
    })
    .collect()
}

/// The violation of an unknown parameter.
fn unknown_parameter(name: &str, known: &str) -> FieldViolation {
    violation(format!("?{name}"), format!("expected one of {known}; this parameter is unknown"))
}

/// Adds the headers of a decision to `answer`, and the status `deny_status` if it denies.
fn decided(decision: &Decision, deny_status: StatusCode, mut answer: Response) -> Response {
    headers::add(decision, answer.headers_mut());
    let unauthorized = decision.identity.is_some_and(IdentityProblem::is_unauthorized);
    *answer.status_mut() = match (decision.allowed, unauthorized && deny_status != StatusCode::OK) {
        (true, _) => StatusCode::OK,
        (false, true) => StatusCode::UNAUTHORIZED,
        (false, false) => deny_status,
    };
    answer
}

/// Adds the id of the request to `answer`.
fn with_id(mut answer: Response, id: &RequestId<'_>) -> Response {
    if let Ok(id) = HeaderValue::try_from(id.to_string()) {
        answer.headers_mut().insert(HeaderName::from_static(request_id::HEADER), id);
    }
    answer
}
