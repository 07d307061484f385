//! Reads the body of a request, whole and bounded.

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, header};
use bytes::BytesMut;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tonic::{Code, Status};

use crate::api::rejection::{Rejection, violation};
use crate::ports::Unavailable;

/// Reads a whole body of at most `most` bytes. Pieces are copied together as they arrive. Otherwise each piece would
/// keep the buffer alive that it was read into, and a body in pieces of one byte would take thousands of times its
/// size.
pub(super) async fn whole(mut body: Body, most: usize) -> Result<Bytes, Rejection> {
    let error = |error: axum::Error| match error.into_inner().downcast::<Status>() {
        Ok(status) if status.code() == Code::Unavailable => Rejection::Unavailable(Unavailable::Reading),
        _ => Rejection::Invalid(vec![violation("", "expected a whole body")]),
    };
    let mut read = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let Ok(piece) = frame.map_err(error)?.into_data() else { continue };
        if read.len() + piece.len() > most {
            return Err(Rejection::TooLarge(most));
        }
        if read.is_empty() && body.is_end_stream() {
            return Ok(piece);
        }
        read.extend_from_slice(&piece);
    }
    Ok(read.freeze())
}

/// Accepts JSON. A body without a type, and the type that `curl -d` sends by itself, are taken for JSON.
pub(super) fn is_json(headers: &HeaderMap) -> Result<(), Rejection> {
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
            whole(Body::new(StreamBody::new(pieces)), 100).await.unwrap_err()
        };
        let reason = rejected(Status::unavailable("overloaded")).await;
        assert_eq!(reason, Rejection::Unavailable(Unavailable::Reading));
        assert!(Unavailable::Reading.to_string().contains("request bodies"));
        assert!(matches!(rejected(Status::unknown("reset")).await, Rejection::Invalid(_)));
    }
}
