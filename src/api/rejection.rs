//! The one table from error to response, for HTTP (problem documents, RFC 9457) and gRPC (`google.rpc` details).

use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::request_id::RequestId;
use crate::ports::Unavailable;
use limiter::Overload;

/// How long a client should wait before it asks an unavailable node again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// One error of a request: its place, and what was expected there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldViolation {
    /// A JSON pointer over HTTP, the path of the field over gRPC.
    pub pointer: String,
    pub detail: String,
}

/// A violation at `pointer`.
pub fn violation(pointer: impl Into<String>, detail: impl Into<String>) -> FieldViolation {
    FieldViolation { pointer: pointer.into(), detail: detail.into() }
}

/// Why a request got no decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The request is not valid.
    Invalid(Vec<FieldViolation>),
    TooLarge,
    /// The body did not arrive in time.
    TooSlow,
    NoSuchPath,
    WrongMethod,
    WrongMediaType,
    /// A call of the contract that is not built yet.
    NotBuilt,
    /// Too many clients have not read their answers to `/metrics`.
    TooManyScrapes,
    /// An error of this node.
    Internal,
    /// The node makes no decision now.
    Unavailable(Unavailable),
}

impl Rejection {
    /// The table.
    fn row(&self) -> (StatusCode, Code, String) {
        let text = |text: &str| text.to_owned();
        match self {
            Self::Invalid(_) => (StatusCode::BAD_REQUEST, Code::InvalidArgument, text("the request is not valid")),
            Self::TooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, text("expected a body of at most 64 KiB"))
            }
            Self::TooSlow => {
                (StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, text("the body did not arrive in time"))
            }
            Self::NoSuchPath => (StatusCode::NOT_FOUND, Code::Unimplemented, text("there is nothing at this path")),
            Self::WrongMethod => {
                (StatusCode::METHOD_NOT_ALLOWED, Code::Unimplemented, text("this path does not take this method"))
            }
            Self::WrongMediaType => {
                let title = text("expected content-type: application/json");
                (StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::InvalidArgument, title)
            }
            Self::NotBuilt => (StatusCode::NOT_FOUND, Code::Unimplemented, text("this call is not built yet")),
            Self::TooManyScrapes => {
                (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, text("too many answers to /metrics are not read"))
            }
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, text("this node failed")),
            Self::Unavailable(why) => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, why.to_string()),
        }
    }

    fn violations(&self) -> &[FieldViolation] {
        if let Self::Invalid(violations) = self { violations } else { &[] }
    }

    /// The label of the metric that counts shed load, if that is the reason.
    pub const fn shed_reason(&self) -> Option<&'static str> {
        match self {
            Self::Unavailable(Unavailable::Starting) => Some("starting"),
            Self::Unavailable(Unavailable::Overloaded(Overload::TooManyWaiting)) => Some("waiting"),
            Self::Unavailable(Unavailable::Overloaded(Overload::TooManyKeys)) => Some("keys"),
            Self::Unavailable(Unavailable::Restarted) => Some("restart"),
            // The body's budget has counted it already.
            Self::Unavailable(Unavailable::Reading) => None,
            _ => None,
        }
    }

    /// The gRPC code and a line of text, for an item of a batch.
    pub fn code_and_message(&self) -> (Code, String) {
        let (_, code, mut message) = self.row();
        for FieldViolation { pointer, detail } in self.violations() {
            message += &format!("; {pointer}: {detail}");
        }
        (code, message)
    }

    /// The answer over gRPC.
    pub fn into_status(self, id: &RequestId<'_>) -> Status {
        let (code, message) = self.code_and_message();
        let mut details = ErrorDetails::new();
        for FieldViolation { pointer, detail } in self.violations() {
            details.add_bad_request_violation(pointer, detail);
        }
        details.set_request_info(id.to_string(), "");
        if code == Code::Unavailable {
            details.set_retry_info(Some(RETRY_AFTER));
        }
        Status::with_error_details(code, message, details)
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let (status, _, title) = self.row();
        let body = serde_json::json!({ "title": title, "status": status.as_u16(), "errors": self.violations() });
        let mut response =
            (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER.as_secs().into());
        }
        response
    }
}
