//! Builds the requests of a run.

use std::collections::BTreeMap;

use hyper::body::Bytes;
use serde::{Deserialize, Serialize};

use crate::call::Call;
use crate::framing::push_frame;
use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use proto::envoy::service::ratelimit::v3::RateLimitRequest;
use proto::tidegate::v1::{CheckBatchRequest, CheckRequest};

/// The check that a run sends for every key. The key is the value of the attribute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckTemplate {
    pub domain: String,
    pub attribute: String,
    /// The text before the number of the key in the attribute's value.
    pub prefix: String,
    pub hits: u32,
}

impl CheckTemplate {
    fn value(&self, key: u64) -> String {
        format!("{}{key}", self.prefix)
    }

    fn check(&self, key: u64, request_id: String) -> CheckRequest {
        let attributes = BTreeMap::from([(self.attribute.clone(), self.value(key))]);
        let hits = (self.hits != 1).then_some(self.hits);
        CheckRequest { domain: self.domain.clone(), attributes, hits, request_id, ..CheckRequest::default() }
    }

    /// Returns the body of one call for `keys`.
    pub fn body(&self, call: Call, keys: &[u64]) -> Bytes {
        let first_key = || keys.first().copied().unwrap_or(0);
        let mut out = Vec::with_capacity(64 * keys.len());
        match call {
            Call::Envoy => {
                let entry =
                    Entry { key: self.attribute.clone().into_bytes(), value: self.value(first_key()).into_bytes() };
                let descriptors = vec![RateLimitDescriptor { entries: vec![entry], ..RateLimitDescriptor::default() }];
                let hits_addend = if self.hits == 1 { 0 } else { self.hits };
                push_frame(&RateLimitRequest { domain: self.domain.clone(), descriptors, hits_addend }, &mut out);
            }
            Call::Native | Call::Stream => push_frame(&self.check(first_key(), String::new()), &mut out),
            Call::Batch(_) => {
                let checks = keys.iter().map(|key| self.check(*key, String::new())).collect();
                push_frame(&CheckBatchRequest { checks }, &mut out);
            }
            Call::Http => {
                let attributes = BTreeMap::from([(&self.attribute, self.value(first_key()))]);
                let body = serde_json::json!({
                    "domain": self.domain, "attributes": attributes, "hits": self.hits,
                });
                out.extend_from_slice(body.to_string().as_bytes());
            }
        }
        out.into()
    }

    /// Appends the stream message for `key` to `out`. The server's answer repeats `number` as its request id.
    pub fn push_stream_message(&self, key: u64, number: usize, out: &mut Vec<u8>) {
        push_frame(&self.check(key, number.to_string()), out);
    }
}
