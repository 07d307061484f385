//! `POST /v1/checks`: many checks in one request, each for itself.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures_util::future::join_all;
use limiter::Decision;
use serde::Serialize;

use super::body::{is_json, whole};
use super::check_json::{self, Answer, Parsed};
use super::{HttpState, given_id, web_page, with_id};
use crate::api::attributes::CheckRequest;
use crate::api::check_service::Rest;
use crate::api::rejection::{FieldViolation, Rejection};
use crate::api::request_id::RequestId;
use crate::server::body_budget::MAX_MESSAGE;

/// The most errors that are named for one check.
const MAX_ERRORS: usize = 3;

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

pub async fn check_batch(State(state): State<HttpState>, headers: HeaderMap, body: Body) -> Response {
    let given = given_id(&headers);
    let id = state.service.ids.take(given.as_deref());
    let answer = match decide(&state, headers, body, &id).await {
        Ok(answers) => ([(header::CONTENT_TYPE, "application/json")], answers).into_response(),
        Err(rejection) => state.service.reject(rejection, &id).into_response(),
    };
    with_id(answer, &id)
}

/// Returns the answer as JSON.
async fn decide(state: &HttpState, headers: HeaderMap, body: Body, id: &RequestId<'_>) -> Result<Bytes, Rejection> {
    web_page::check(&headers, &state.origins)?;
    is_json(&headers)?;
    drop(headers);
    let body = whole(body, MAX_MESSAGE).await?;
    let checks = check_json::parse_batch(&body).map_err(Rejection::Invalid)?;
    // The batch may wait, and needs it no more.
    drop(body);
    let descriptors = checks.iter().map(|check| check.as_ref().map_or(1, CheckRequest::descriptors)).sum();
    let bytes = || checks.iter().map(check_bytes).sum();
    let _permit = state.service.batches.enter(descriptors, bytes).await?;
    let decided = each(state, checks, id).await;
    let request_id = id.to_string();
    let results = decided.iter().map(|decided| match decided {
        Ok(decision) => BatchResult::Decided(Answer::new(decision, &request_id)),
        Err(rejection) => BatchResult::Failed { request_id: &request_id, error: rejection.problem(MAX_ERRORS) },
    });
    let answers = Answers { results: results.collect() };
    // The answer may wait to be sent, so it keeps no more memory than it is long.
    Ok(serde_json::to_vec(&answers).unwrap_or_default().into_boxed_slice().into())
}

/// About the memory that a check takes, in bytes.
fn check_bytes(check: &Parsed) -> usize {
    let of_violation = |it: &FieldViolation| size_of::<FieldViolation>() + it.pointer.len() + it.detail.len();
    match check {
        Ok(check) => check.bytes(),
        Err(violations) => violations.iter().map(of_violation).sum(),
    }
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
