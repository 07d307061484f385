//! The calls that a run is made of: how they are written, and what their answers say.

use std::collections::BTreeMap;

use hyper::body::Bytes;
use prost::Message;
use serde::{Deserialize, Serialize};

use super::record::Outcome;
use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use proto::tidegate::v1::{CheckBatchRequest, CheckBatchResponse, CheckRequest, CheckResponse};

/// How the target is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// `envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit`, of any server.
    Envoy,
    /// `tidegate.v1.RateLimitService/Check`.
    Native,
    /// `CheckBatch` of so many.
    Batch(u32),
    /// `CheckStream`: one stream a connection.
    Stream,
    /// `POST /v1/check`, over HTTP/1.1.
    Http,
}

impl Call {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::Native => "native",
            Self::Batch(_) => "batch",
            Self::Stream => "stream",
            Self::Http => "http",
        }
    }

    /// Checks in one call.
    pub const fn batch(self) -> u32 {
        if let Self::Batch(size) = self { size } else { 1 }
    }

    /// The path that is asked.
    pub const fn path(self) -> &'static str {
        match self {
            Self::Envoy => "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit",
            Self::Native => "/tidegate.v1.RateLimitService/Check",
            Self::Batch(_) => "/tidegate.v1.RateLimitService/CheckBatch",
            Self::Stream => "/tidegate.v1.RateLimitService/CheckStream",
            Self::Http => "/v1/check",
        }
    }
}

/// What is asked of each key: whether `hits` of the attribute with that key's value may pass.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    pub domain: String,
    pub attribute: String,
    /// What comes before the key's number in the value.
    pub prefix: String,
    pub hits: u32,
}

/// As much of an answer as a load tool reads.
#[derive(Clone, PartialEq, Message)]
struct Short {
    /// Of Envoy's answer the overall code (1 is OK, 2 is OVER_LIMIT), of Tidegate's whether it is allowed.
    #[prost(uint32, tag = "1")]
    first: u32,
}

/// As much of one answer of a batch or a stream.
#[derive(Clone, PartialEq, Message)]
struct Checked {
    #[prost(bool, tag = "1")]
    allowed: bool,
    #[prost(string, tag = "4")]
    request_id: String,
    #[prost(message, optional, tag = "7")]
    error: Option<Said>,
}

#[derive(Clone, PartialEq, Message)]
struct Said {
    #[prost(string, tag = "2")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct Results {
    #[prost(message, repeated, tag = "1")]
    results: Vec<Checked>,
}

impl Question {
    fn check(&self, key: u64, request_id: String) -> CheckRequest {
        let attributes = BTreeMap::from([(self.attribute.clone(), format!("{}{key}", self.prefix))]);
        let hits = (self.hits != 1).then_some(self.hits);
        CheckRequest { domain: self.domain.clone(), attributes, hits, request_id, ..CheckRequest::default() }
    }

    /// The body of one call for these keys.
    pub fn body(&self, call: Call, keys: &[u64]) -> Bytes {
        let first = || keys.first().copied().unwrap_or(0);
        let mut out = Vec::with_capacity(64 * keys.len());
        match call {
            Call::Envoy => {
                let entry = Entry { key: self.attribute.clone(), value: format!("{}{}", self.prefix, first()) };
                let descriptors = vec![RateLimitDescriptor { entries: vec![entry], limit: None, hits_addend: None }];
                let hits_addend = if self.hits == 1 { 0 } else { self.hits };
                push(&RateLimitRequest { domain: self.domain.clone(), descriptors, hits_addend }, &mut out);
            }
            Call::Native | Call::Stream => push(&self.check(first(), String::new()), &mut out),
            Call::Batch(_) => {
                let checks = keys.iter().map(|key| self.check(*key, String::new())).collect();
                push(&CheckBatchRequest { checks }, &mut out);
            }
            Call::Http => {
                let attributes = BTreeMap::from([(&self.attribute, format!("{}{}", self.prefix, first()))]);
                let body = serde_json::json!({
                    "domain": self.domain, "attributes": attributes, "hits": self.hits,
                });
                out.extend_from_slice(body.to_string().as_bytes());
            }
        }
        out.into()
    }

    /// One message of a stream, for this key, which is answered under this number.
    pub fn push_to_stream(&self, key: u64, number: usize, out: &mut Vec<u8>) {
        push(&self.check(key, number.to_string()), out);
    }
}

/// A message in gRPC's frame.
fn push(message: &impl Message, out: &mut Vec<u8>) {
    let length = u32::try_from(message.encoded_len()).unwrap_or(u32::MAX);
    out.push(0);
    out.extend_from_slice(&length.to_be_bytes());
    // A vector takes what it is given.
    let _ = message.encode(out);
}

/// The first whole message of `bytes`, and where it ends.
pub fn message(bytes: &[u8]) -> Option<(&[u8], usize)> {
    let (head, rest) = bytes.split_at_checked(5)?;
    let length = u32::from_be_bytes(head[1..].try_into().ok()?) as usize;
    Some((rest.get(..length)?, 5 + length))
}

/// What the answer to a call for one key says, `None` where it says nothing that is understood.
pub fn one(call: Call, body: &[u8]) -> Option<Outcome> {
    let (message, _) = message(body)?;
    let first = Short::decode(message).ok()?.first;
    match (call, first) {
        (_, 1) => Some(Outcome::Admitted),
        (Call::Envoy, 2) | (Call::Native, 0) => Some(Outcome::Refused),
        _ => None,
    }
}

/// What the answer to a batch says, in order, and the first error in it.
pub fn batch(body: &[u8]) -> Option<(Vec<Outcome>, Option<String>)> {
    let (message, _) = message(body)?;
    let results = Results::decode(message).ok()?.results;
    let error = results.iter().find_map(|result| result.error.as_ref()).map(|said| said.message.clone());
    Some((results.iter().map(outcome).collect(), error))
}

/// What a message of a stream says, of which number, and with which error.
pub fn streamed(message: &[u8]) -> Option<(usize, Outcome, Option<String>)> {
    let checked = Checked::decode(message).ok()?;
    Some((checked.request_id.parse().ok()?, outcome(&checked), checked.error.map(|said| said.message)))
}

/// Whether some limit applied, as far as the answer says so.
pub fn is_limited(call: Call, body: &[u8]) -> bool {
    let Some((message, _)) = message(body) else { return true };
    match call {
        Call::Envoy => RateLimitResponse::decode(message)
            .is_ok_and(|answer| answer.statuses.iter().any(|status| status.current_limit.is_some())),
        Call::Native => CheckResponse::decode(message).is_ok_and(|answer| !answer.limits.is_empty()),
        Call::Batch(_) => CheckBatchResponse::decode(message)
            .is_ok_and(|answer| answer.results.iter().any(|one| !one.limits.is_empty() || one.error.is_some())),
        Call::Stream | Call::Http => true,
    }
}

const fn outcome(checked: &Checked) -> Outcome {
    match checked {
        Checked { error: Some(_), .. } => Outcome::Error,
        Checked { allowed: true, .. } => Outcome::Admitted,
        Checked { .. } => Outcome::Refused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::tidegate::v1::Error;

    fn framed(message: &impl Message) -> Vec<u8> {
        let mut out = Vec::new();
        push(message, &mut out);
        out
    }

    #[test]
    fn answers_are_understood_as_far_as_they_are_read() {
        let envoy = |overall_code| framed(&RateLimitResponse { overall_code, ..RateLimitResponse::default() });
        assert_eq!(one(Call::Envoy, &envoy(1)), Some(Outcome::Admitted));
        assert_eq!(one(Call::Envoy, &envoy(2)), Some(Outcome::Refused));
        assert_eq!(one(Call::Envoy, &envoy(0)), None);
        let answer = |allowed| CheckResponse { allowed, request_id: "7".to_owned(), ..CheckResponse::default() };
        assert_eq!(one(Call::Native, &framed(&answer(false))), Some(Outcome::Refused));
        assert_eq!(streamed(&framed(&answer(true))[5..]), Some((7, Outcome::Admitted, None)));
        let said = Error { code: 3, message: "no".to_owned() };
        let failed = CheckResponse { error: Some(said), ..answer(false) };
        let results = vec![answer(true), answer(false), failed];
        let expected = vec![Outcome::Admitted, Outcome::Refused, Outcome::Error];
        assert_eq!(batch(&framed(&CheckBatchResponse { results })), Some((expected, Some("no".to_owned()))));
    }

    #[test]
    fn a_message_is_none_before_it_is_whole() {
        let whole = framed(&Short { first: 1 });
        assert_eq!(message(&whole), Some((&whole[5..], whole.len())));
        for cut in 0..whole.len() {
            assert_eq!(message(&whole[..cut]), None);
        }
    }
}
