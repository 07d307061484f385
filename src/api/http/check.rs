//! `POST /v1/check`.

use axum::body::Body;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use limiter::Decision;

use super::body::{is_json, whole};
use super::check_json::{self, Answer};
use super::{HttpState, decided, given_id, parameters, unknown_parameter, web_page, with_id};
use crate::api::rejection::{Rejection, violation};
use crate::api::request_id::RequestId;

/// The largest body, in bytes.
const MAX_BODY: usize = 64 * 1024;

pub async fn check(
    State(state): State<HttpState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let given = given_id(&headers);
    let id = state.service.ids.take(given.as_deref());
    let answer = match decide(&state, query, headers, body, &id).await {
        Ok((decision, deny_status)) => {
            let json = serde_json::to_vec(&Answer::new(&decision, &id.to_string())).unwrap_or_default();
            decided(&decision, deny_status, ([(header::CONTENT_TYPE, "application/json")], json).into_response())
        }
        // The service has counted a check that it could not decide.
        Err(rejection @ Rejection::Unavailable(_)) => rejection.into_response(),
        Err(rejection) => state.service.reject(rejection, &id).into_response(),
    };
    with_id(answer, &id)
}

/// Returns the decision, and the status of an answer that denies.
async fn decide(
    state: &HttpState,
    query: Option<String>,
    headers: HeaderMap,
    body: Body,
    id: &RequestId<'_>,
) -> Result<(Decision, StatusCode), Rejection> {
    let mut violations = Vec::new();
    let mut deny_status = StatusCode::TOO_MANY_REQUESTS;
    for (key, value) in parameters(query.as_deref(), &mut violations) {
        match (key.as_str(), value.as_str()) {
            ("status", "200") => deny_status = StatusCode::OK,
            ("status", _) => violations.push(violation("?status", "expected 200")),
            _ => violations.push(unknown_parameter(&key, "status")),
        }
    }
    web_page::check(&headers, &state.origins)?;
    is_json(&headers)?;
    drop((headers, query));
    let body = whole(body, MAX_BODY).await?;
    let request = check_json::parse(&body, violations).map_err(Rejection::Invalid)?;
    // The check may wait, and needs it no more.
    drop(body);
    Ok((state.service.check(request, None, id).await?, deny_status))
}
