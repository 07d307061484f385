//! `POST /v1/checks`: many checks in one request, each for itself.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use http_body_util::BodyExt;
use limiter::{Decision, Overload};
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::body::{is_json, whole};
use super::check_json::{self, Answer, Parsed};
use super::{HttpState, web_page, with_id};
use crate::api::check_service::Rest;
use crate::api::rejection::Rejection;
use crate::api::request_id::RequestId;
use crate::ports::Unavailable;
use crate::server::body_budget::MAX_MESSAGE;

/// The most batches of one core that are decided, or whose answers clients have not read. An answer may be much larger
/// than its request.
pub(super) const MAX_BATCHES: usize = 64;

/// The most errors that are named for one check.
const MAX_ERRORS: usize = 3;
/// How long a batch waits until one of them is read.
const MAX_WAIT: Duration = Duration::from_millis(500);

/// The answer to a batch.
#[derive(Serialize)]
struct Answers<'d> {
    /// In the order of the checks.
    results: Vec<BatchResult<'d>>,
}

/// The answer to one check of a batch.
#[derive(Serialize)]
#[serde(untagged)]
enum BatchResult<'d> {
    Decided(Answer<'d>),
    /// The problem document that the check alone would get, with fewer errors.
    Failed {
        request_id: &'d str,
        error: serde_json::Value,
    },
}

pub async fn check_batch(
    State(state): State<HttpState>,
    headers: HeaderMap,
    body: Body,
    batches: Arc<Semaphore>,
) -> Response {
    let id = state.take_id(&headers);
    let answer = match decide(&state, &headers, body, &batches, &id).await {
        Ok((permit, answers)) => {
            let head = [
                (header::CONTENT_TYPE, HeaderValue::from_static("application/json")),
                (header::CONTENT_LENGTH, answers.len().into()),
            ];
            // The body holds the permit until the client has read it.
            let body = Body::from(answers).map_frame(move |frame| {
                let _ = &permit;
                frame
            });
            (StatusCode::OK, head, Body::new(body)).into_response()
        }
        Err(rejection) => state.service.reject(rejection, &id).into_response(),
    };
    with_id(answer, &id)
}

/// Returns the answer as JSON, with the permit that it needs until it is read.
async fn decide(
    state: &HttpState,
    headers: &HeaderMap,
    body: Body,
    batches: &Arc<Semaphore>,
    id: &RequestId<'_>,
) -> Result<(Option<OwnedSemaphorePermit>, Bytes), Rejection> {
    web_page::check(headers, &state.origins)?;
    is_json(headers)?;
    let body = whole(body, MAX_MESSAGE).await?;
    let busy = Rejection::Unavailable(Unavailable::Overloaded(Overload::TooManyWaiting));
    // Nobody closes the semaphore.
    let permit = tokio::time::timeout(MAX_WAIT, Arc::clone(batches).acquire_owned()).await.map_err(|_| busy)?.ok();
    let checks = check_json::parse_batch(&body).map_err(Rejection::Invalid)?;
    let decided = each(state, checks, id).await;
    let request_id = id.to_string();
    let results = decided.iter().map(|decided| match decided {
        Ok(decision) => BatchResult::Decided(Answer::new(decision, &request_id)),
        Err(rejection) => BatchResult::Failed { request_id: &request_id, error: rejection.problem(MAX_ERRORS) },
    });
    let answers = Answers { results: results.collect() };
    Ok((permit, serde_json::to_vec(&answers).unwrap_or_default().into()))
}

/// Decides all checks at once. The results have their order.
async fn each(state: &HttpState, checks: Vec<Parsed>, id: &RequestId<'_>) -> Vec<Result<Decision, Rejection>> {
    let service = &state.service;
    let mut invalid = Vec::new();
    let mut requests = Vec::new();
    for (at, check) in checks.into_iter().enumerate() {
        match check {
            Ok(request) => requests.push(request),
            Err(violations) => invalid.push((at, service.reject(Rejection::Invalid(violations), id))),
        }
    }
    let pending = service.begin(&mut requests, None, Rest::Rejected);
    let finished = requests.into_iter().zip(pending).map(|(request, pending)| service.finish(request, pending, id));
    let mut results = join_all(finished).await;
    // In ascending order, so that each is at its place when the next one is inserted.
    for (at, rejection) in invalid {
        results.insert(at, Err(rejection));
    }
    results
}
