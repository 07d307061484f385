//! `POST /v1/check`.

use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use limiter::Decision;
use tonic::{Code, Status};

use super::check_json::{self, Answer};
use super::{HttpState, decided, parameters, unknown_parameter, with_id};
use crate::api::rejection::{Rejection, violation};
use crate::api::request_id::RequestId;
use crate::ports::Unavailable;

/// The largest body, in bytes.
const MAX_BODY: usize = 64 * 1024;

pub async fn check(
    State(state): State<HttpState>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
    body: Body,
) -> Response {
    let id = state.take_id(&headers);
    let answer = match decide(&state, query.as_deref(), &headers, body, &id).await {
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
    query: Option<&str>,
    headers: &HeaderMap,
    body: Body,
    id: &RequestId<'_>,
) -> Result<(Decision, StatusCode), Rejection> {
    let mut violations = Vec::new();
    let mut deny_status = StatusCode::TOO_MANY_REQUESTS;
    for (key, value) in parameters(query, &mut violations) {
        match (key.as_str(), value.as_str()) {
            ("status", "200") => deny_status = StatusCode::OK,
            ("status", _) => violations.push(violation("?status", "expected 200")),
            _ => violations.push(unknown_parameter(&key, "status")),
        }
    }
    is_json(headers)?;
    let body = whole(body).await?;
    let request = check_json::parse(&body, violations).map_err(Rejection::Invalid)?;
    Ok((state.service.check(request, None, id).await?, deny_status))
}

/// Reads a whole body. Pieces are copied together as they arrive. Otherwise each piece would keep the buffer alive that
/// it was read into, and a body in pieces of one byte would take thousands of times its size.
async fn whole(mut body: Body) -> Result<Bytes, Rejection> {
    let error = |error: axum::Error| match error.into_inner().downcast::<Status>() {
        Ok(status) if status.code() == Code::Unavailable => Rejection::Unavailable(Unavailable::Reading),
        _ => Rejection::Invalid(vec![violation("", "expected a whole body")]),
    };
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(error)?.into_data() else { continue };
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

/// Accepts JSON. A body without a type, and the type that `curl -d` sends by itself, are taken for JSON.
fn is_json(headers: &HeaderMap) -> Result<(), Rejection> {
    let Some(given) = headers.get(header::CONTENT_TYPE) else { return Ok(()) };
    let essence = given.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.as_str() {
        "" | "application/json" | "application/x-www-form-urlencoded" => Ok(()),
        other if other.starts_with("application/") && other.ends_with("+json") => Ok(()),
        _ => Err(Rejection::WrongMediaType),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    #[tokio::test]
    async fn a_body_beyond_the_budget_is_answered_with_that_reason() {
        let rejected = |status: Status| async {
            let pieces = futures_util::stream::iter([Ok(Frame::data(Bytes::from("{"))), Err(status)]);
            whole(Body::new(StreamBody::new(pieces))).await.unwrap_err()
        };
        let reason = rejected(Status::unavailable("overloaded")).await;
        assert_eq!(reason, Rejection::Unavailable(Unavailable::Reading));
        assert!(Unavailable::Reading.to_string().contains("request bodies"));
        assert!(matches!(rejected(Status::unknown("reset")).await, Rejection::Invalid(_)));
    }
}
