//! Reads the server's answers, as far as a run needs them.

use prost::Message;

use crate::call::Call;
use crate::framing::first_message;
use proto::envoy::service::ratelimit::v3::RateLimitResponse;
use proto::tidegate::v1::{CheckBatchResponse, CheckResponse};

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CheckOutcome {
    Admitted,
    Denied,
    /// The server answered with an error.
    Error,
}

/// The first field of an answer to a call with one check.
#[derive(Clone, PartialEq, Message)]
struct FirstField {
    /// In Envoy's answer the overall code (1 is OK, 2 is OVER_LIMIT); in Tidegate's answer, 1 if the check is allowed.
    #[prost(uint32, tag = "1")]
    value: u32,
}

/// The fields that the tool reads of one answer in a batch or a stream (`CheckResponse`).
#[derive(Clone, PartialEq, Message)]
struct CheckAnswer {
    #[prost(bool, tag = "1")]
    allowed: bool,
    #[prost(string, tag = "4")]
    request_id: String,
    #[prost(message, optional, tag = "7")]
    error: Option<AnswerError>,
}

/// The error of a check that the server could not decide (`Error`).
#[derive(Clone, PartialEq, Message)]
struct AnswerError {
    #[prost(string, tag = "2")]
    message: String,
}

/// The answer to a batch (`CheckBatchResponse`).
#[derive(Clone, PartialEq, Message)]
struct BatchAnswer {
    #[prost(message, repeated, tag = "1")]
    results: Vec<CheckAnswer>,
}

impl CheckAnswer {
    const fn outcome(&self) -> CheckOutcome {
        match self {
            Self { error: Some(_), .. } => CheckOutcome::Error,
            Self { allowed: true, .. } => CheckOutcome::Admitted,
            Self { .. } => CheckOutcome::Denied,
        }
    }
}

/// Returns the outcome of a call with one check, or `None` if the body cannot be decoded.
pub fn decode_single(call: Call, body: &[u8]) -> Option<CheckOutcome> {
    let (message, _) = first_message(body)?;
    let value = FirstField::decode(message).ok()?.value;
    match (call, value) {
        (_, 1) => Some(CheckOutcome::Admitted),
        (Call::Envoy, 2) | (Call::Native, 0) => Some(CheckOutcome::Denied),
        _ => None,
    }
}

/// Returns the outcomes of a batch in order and the message of its first error, or `None` if the body cannot be
/// decoded.
pub fn decode_batch(body: &[u8]) -> Option<(Vec<CheckOutcome>, Option<String>)> {
    let (message, _) = first_message(body)?;
    let results = BatchAnswer::decode(message).ok()?.results;
    let error = results.iter().find_map(|result| result.error.as_ref()).map(|error| error.message.clone());
    Some((results.iter().map(CheckAnswer::outcome).collect(), error))
}

/// Returns the message number, the outcome and the error of one stream message, or `None` if it cannot be decoded.
pub fn decode_stream_message(message: &[u8]) -> Option<(usize, CheckOutcome, Option<String>)> {
    let answer = CheckAnswer::decode(message).ok()?;
    Some((answer.request_id.parse().ok()?, answer.outcome(), answer.error.map(|error| error.message)))
}

/// Returns true if a limit applied to the call. Also returns true if the answer does not name limits: an answer over a
/// stream or HTTP/1.1, a batch with an error, or an incomplete message.
pub fn limit_applied(call: Call, body: &[u8]) -> bool {
    let Some((message, _)) = first_message(body) else { return true };
    match call {
        Call::Envoy => RateLimitResponse::decode(message)
            .is_ok_and(|answer| answer.statuses.iter().any(|status| status.current_limit.is_some())),
        Call::Native => CheckResponse::decode(message).is_ok_and(|answer| !answer.limits.is_empty()),
        Call::Batch(_) => CheckBatchResponse::decode(message)
            .is_ok_and(|answer| answer.results.iter().any(|one| !one.limits.is_empty() || one.error.is_some())),
        Call::Stream | Call::Http => true,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::framing::push_frame;
    use proto::tidegate::v1::Error;

    fn frame(message: &impl Message) -> Vec<u8> {
        let mut out = Vec::new();
        push_frame(message, &mut out);
        out
    }

    #[test]
    fn the_answers_of_every_call_are_decoded() {
        let envoy = |overall_code| frame(&RateLimitResponse { overall_code, ..RateLimitResponse::default() });
        assert_eq!(decode_single(Call::Envoy, &envoy(1)), Some(CheckOutcome::Admitted));
        assert_eq!(decode_single(Call::Envoy, &envoy(2)), Some(CheckOutcome::Denied));
        assert_eq!(decode_single(Call::Envoy, &envoy(0)), None);
        let answer = |allowed| CheckResponse { allowed, request_id: "7".to_owned(), ..CheckResponse::default() };
        assert_eq!(decode_single(Call::Native, &frame(&answer(false))), Some(CheckOutcome::Denied));
        assert_eq!(decode_stream_message(&frame(&answer(true))[5..]), Some((7, CheckOutcome::Admitted, None)));
        let error = Error { code: 3, message: "no".to_owned() };
        let failed = CheckResponse { error: Some(error), ..answer(false) };
        let results = vec![answer(true), answer(false), failed];
        let expected = vec![CheckOutcome::Admitted, CheckOutcome::Denied, CheckOutcome::Error];
        assert_eq!(decode_batch(&frame(&CheckBatchResponse { results })), Some((expected, Some("no".to_owned()))));
    }
}
