//! The one table from error to response, for HTTP (problem documents, RFC 9457) and gRPC (`google.rpc` details).

use std::time::Duration;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use super::request_id::RequestId;
use crate::ports::Unavailable;
#[cfg(feature = "cluster")]
use crate::ports::admin::{AdminError, AdminRole};
use limiter::Overload;
use limiter::rules::{MAX_BATCH_WORK, MAX_WORK};

/// How long a client should wait before it asks an unavailable node again.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// The most errors that an answer names. The others are counted.
const MAX_SHOWN: usize = 20;
/// The same over gRPC, whose libraries take 8 KiB of trailers.
const MAX_SHOWN_GRPC: usize = 8;
/// The longest message over gRPC, in bytes.
const MAX_MESSAGE: usize = 512;
/// The longest pointer and the longest detail in an answer, in bytes. A request chooses names that are in them.
const MAX_TEXT: usize = 160;

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
    /// Too many limits may apply to the descriptors: [`MAX_WORK`].
    TooMuchWork,
    /// The checks of the batch before this one were too much work: [`MAX_BATCH_WORK`].
    BatchTooMuchWork,
    /// The body is longer than this many bytes.
    TooLarge(usize),
    /// A web page of an origin that may not ask.
    ForeignPage,
    /// The body did not arrive in time.
    TooSlow,
    NoSuchPath,
    WrongMethod,
    WrongMediaType,
    /// A call of the contract that is not built yet.
    NotBuilt,
    /// An error of this node.
    Internal,
    /// The node makes no decision now.
    Unavailable(Unavailable),
    /// A call without a valid token.
    Unauthorized,
    /// The role of the admin token is not enough.
    #[cfg(feature = "cluster")]
    Forbidden(AdminRole),
    /// Too many admin calls with wrong tokens came from this address, or from all together.
    #[cfg(feature = "cluster")]
    TooManyAttempts(Duration),
    #[cfg(feature = "cluster")]
    Admin(AdminError),
}

impl Rejection {
    /// The table.
    fn row(&self) -> (StatusCode, Code, String) {
        let text = |text: &str| text.to_owned();
        match self {
            Self::Invalid(_) | Self::TooMuchWork | Self::BatchTooMuchWork => {
                (StatusCode::BAD_REQUEST, Code::InvalidArgument, text("the request is not valid"))
            }
            Self::TooLarge(bytes) => {
                let title = format!("expected a body of at most {} KiB", bytes / 1024);
                (StatusCode::PAYLOAD_TOO_LARGE, Code::ResourceExhausted, title)
            }
            Self::ForeignPage => (
                StatusCode::FORBIDDEN,
                Code::PermissionDenied,
                text("a web page of this origin may not ask: listen.cors_origins lists those that may"),
            ),
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
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal, text("this node failed")),
            Self::Unavailable(why) => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable, why.to_string()),
            Self::Unauthorized => (
                StatusCode::UNAUTHORIZED,
                Code::Unauthenticated,
                text("expected Authorization: Bearer, with a valid token"),
            ),
            #[cfg(feature = "cluster")]
            Self::Forbidden(role) => {
                let title = format!("this call needs a token with the role {role}");
                (StatusCode::FORBIDDEN, Code::PermissionDenied, title)
            }
            #[cfg(feature = "cluster")]
            Self::TooManyAttempts(_) => {
                (StatusCode::TOO_MANY_REQUESTS, Code::ResourceExhausted, text("too many calls had a wrong token"))
            }
            #[cfg(feature = "cluster")]
            Self::Admin(error) => {
                let (status, code) = match error {
                    AdminError::Invalid(_) => (StatusCode::BAD_REQUEST, Code::InvalidArgument),
                    AdminError::Stale { .. } => (StatusCode::CONFLICT, Code::Aborted),
                    AdminError::FileMode { .. } => (StatusCode::CONFLICT, Code::FailedPrecondition),
                    AdminError::NotFound(_) => (StatusCode::NOT_FOUND, Code::NotFound),
                    AdminError::Exists(_) => (StatusCode::CONFLICT, Code::AlreadyExists),
                    AdminError::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, Code::Unavailable),
                    // The gateway of this call is the node: the database or the quorum did not answer it.
                    AdminError::UnknownOutcome(_) => (StatusCode::GATEWAY_TIMEOUT, Code::Unknown),
                    AdminError::Internal(_) => (StatusCode::INTERNAL_SERVER_ERROR, Code::Internal),
                };
                (status, code, error.to_string())
            }
        }
    }

    /// The errors that an answer names. A request may have far more and far longer ones than its answer may be large.
    /// `root` is what the path of a field begins with.
    fn violations(&self, most: usize, root: &str) -> Vec<FieldViolation> {
        let violations = match self {
            Self::Invalid(violations) => violations,
            Self::TooMuchWork => {
                let expected = format!(
                    "expected fewer descriptors, or some that fewer limits may apply to: the check takes more than \
                     {MAX_WORK} steps"
                );
                return vec![violation(format!("{root}descriptors"), expected)];
            }
            Self::BatchTooMuchWork => {
                let expected =
                    format!("expected fewer checks in a batch: those before this one took {MAX_BATCH_WORK} steps");
                return vec![violation("", expected)];
            }
            _ => return Vec::new(),
        };
        let short = |violation: &FieldViolation| FieldViolation {
            pointer: shortened(&violation.pointer, MAX_TEXT),
            detail: shortened(&violation.detail, MAX_TEXT),
        };
        let mut shown: Vec<FieldViolation> = violations.iter().take(most).map(short).collect();
        if let Some(more) = violations.len().checked_sub(most).filter(|more| *more > 0) {
            shown.push(violation("", format!("{more} more errors are not shown")));
        }
        shown
    }

    /// How long the client should wait.
    fn retry_after(&self, status: StatusCode) -> Option<Duration> {
        match self {
            #[cfg(feature = "cluster")]
            Self::TooManyAttempts(wait) => Some(*wait),
            _ => (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER),
        }
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

    /// The problem document (RFC 9457), which names at most `most_errors`.
    pub fn problem(&self, most_errors: usize) -> serde_json::Value {
        let (status, _, title) = self.row();
        #[cfg_attr(not(feature = "cluster"), expect(unused_mut, reason = "admin errors say more"))]
        let mut problem = serde_json::json!({
            "title": title,
            "status": status.as_u16(),
            "errors": self.violations(most_errors, "/"),
        });
        #[cfg(feature = "cluster")]
        match self {
            Self::Admin(AdminError::Stale { current }) => problem["revision"] = current.0.into(),
            Self::Admin(AdminError::FileMode { file }) => problem["file"] = file.as_str().into(),
            Self::Admin(AdminError::UnknownOutcome(_)) => problem["outcome"] = "unknown".into(),
            _ => {}
        }
        problem
    }

    /// The gRPC code and a line of text, for an item of a batch.
    pub fn code_and_message(&self) -> (Code, String) {
        let (_, code, mut message) = self.row();
        for FieldViolation { pointer, detail } in self.violations(MAX_SHOWN_GRPC, "") {
            message += &format!("; {pointer}: {detail}");
        }
        (code, shortened(&message, MAX_MESSAGE))
    }

    /// The answer over gRPC.
    pub fn into_status(self, id: &RequestId<'_>) -> Status {
        let (code, message) = self.code_and_message();
        let mut details = ErrorDetails::new();
        for FieldViolation { pointer, detail } in self.violations(MAX_SHOWN_GRPC, "") {
            details.add_bad_request_violation(pointer, detail);
        }
        details.set_request_info(id.to_string(), "");
        if code == Code::Unavailable {
            details.set_retry_info(Some(RETRY_AFTER));
        }
        Status::with_error_details(code, message, details)
    }
}

/// The beginning of a text that is too long, with a sign that it is cut.
fn shortened(text: &str, most: usize) -> String {
    if text.len() <= most {
        return text.to_owned();
    }
    format!("{}…", &text[..text.floor_char_boundary(most)])
}

impl IntoResponse for Rejection {
    fn into_response(self) -> Response {
        let (status, ..) = self.row();
        let content_type = [(header::CONTENT_TYPE, "application/problem+json")];
        let mut response = (status, content_type, self.problem(MAX_SHOWN).to_string()).into_response();
        if let Some(wait) = self.retry_after(status) {
            let seconds = wait.as_secs() + u64::from(wait.subsec_nanos() > 0);
            response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
        }
        if let Self::Unauthorized = self {
            let bearer = axum::http::HeaderValue::from_static("Bearer");
            response.headers_mut().insert(header::WWW_AUTHENTICATE, bearer);
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_to_any_number_of_long_errors_is_short() {
        let name = "ä".repeat(4000);
        let rejection = Rejection::Invalid(vec![violation(format!("/attributes/{name}"), name); 5000]);
        let problem = rejection.problem(MAX_SHOWN);
        let errors = problem["errors"].as_array().unwrap();
        assert_eq!(
            (errors.len(), &errors[MAX_SHOWN]["detail"]),
            (MAX_SHOWN + 1, &"4980 more errors are not shown".into())
        );
        assert!(errors[0]["pointer"].as_str().unwrap().ends_with('…'));
        assert!(problem.to_string().len() < 10 * 1024);
        let status = rejection.into_status(&super::super::request_id::RequestIds::new(1).take(None));
        // gRPC libraries take 8 KiB of trailers, in which the message is percent-encoded and the details are base64.
        let message: usize = status.message().chars().map(|c| if c.is_ascii() { 1 } else { 3 * c.len_utf8() }).sum();
        assert!(message + status.details().len() * 4 / 3 < 8 * 1024, "{message} and {}", status.details().len());
        let few = Rejection::Invalid(vec![violation("/hits", "expected a number")]);
        assert_eq!(
            few.problem(MAX_SHOWN)["errors"],
            serde_json::json!([{ "pointer": "/hits", "detail": "expected a number" }])
        );
    }
}
