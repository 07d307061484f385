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

/// How long a client should leave a node alone that sheds load.
const RETRY: Duration = Duration::from_secs(1);

/// One error of a request: where in it, and what was expected.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// A JSON pointer over HTTP, a field's path over gRPC.
    pub pointer: String,
    pub detail: String,
}

/// A fault at `pointer`.
pub fn fault(pointer: impl Into<String>, detail: impl Into<String>) -> Fault {
    Fault { pointer: pointer.into(), detail: detail.into() }
}

/// Why a request got no decision.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Rejection {
    /// The request makes no sense.
    Invalid(Vec<Fault>),
    TooLarge,
    /// The body did not come in time.
    TooSlow,
    NoSuchPath,
    WrongMethod,
    WrongMediaType,
    /// A call of the contract that is not there yet.
    NotBuilt,
    /// A fault of this node.
    Internal,
    Undecided(Unavailable),
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
                (StatusCode::REQUEST_TIMEOUT, Code::DeadlineExceeded, text("the body did not come in time"))
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
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, text("this node failed")),
            Self::Undecided(refusal) => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, refusal.to_string()),
        }
    }

    fn faults(&self) -> &[Fault] {
        if let Self::Invalid(faults) = self { faults } else { &[] }
    }

    /// Why load is shed, when that is the reason; a metric's label.
    pub const fn shed(&self) -> Option<&'static str> {
        match self {
            Self::Undecided(Unavailable::Starting) => Some("starting"),
            Self::Undecided(Unavailable::Overloaded(Overload::TooManyWaiting)) => Some("waiting"),
            Self::Undecided(Unavailable::Overloaded(Overload::TooManyKeys)) => Some("keys"),
            Self::Undecided(Unavailable::Restarted) => Some("restart"),
            _ => None,
        }
    }

    /// The gRPC code and a line of text, for an item of a batch.
    pub fn code_and_message(&self) -> (Code, String) {
        let (_, code, mut message) = self.row();
        for Fault { pointer, detail } in self.faults() {
            message += &format!("; {pointer}: {detail}");
        }
        (code, message)
    }

    /// The answer over gRPC.
    pub fn into_status(self, id: &RequestId<'_>) -> Status {
        let (code, message) = self.code_and_message();
        let mut details = ErrorDetails::new();
        for Fault { pointer, detail } in self.faults() {
            details.add_bad_request_violation(pointer, detail);
        }
        details.set_request_info(id.to_string(), "");
        if code == Code::Unavailable {
            details.set_retry_info(Some(RETRY));
        }
        Status::with_error_details(code, message, details)
    }
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let (status, _, title) = self.row();
        let body = serde_json::json!({ "title": title, "status": status.as_u16(), "errors": self.faults() });
        let mut response =
            (status, [(header::CONTENT_TYPE, "application/problem+json")], body.to_string()).into_response();
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY.as_secs().into());
        }
        response
    }
}
