//! Envoy's rate limit service, version 3.

use std::sync::Arc;

use limiter::{Charging, Decision, LimitStatus, tightest};
use proto::Checked;
use proto::envoy::config::core::v3::HeaderValue;
use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use proto::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitService;
use proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tonic::{Request, Response, Status};

use super::metadata::{CallMetadata, with_id};
use super::units::{in_units, read_limit};
use crate::api::attributes::{Attributes, CheckRequest, DescriptorRequest, Field};
use crate::api::check_service::CheckService;
use crate::api::rejection::{FieldViolation, Rejection, violation};
use crate::api::{client_text, headers};

/// Envoy's service of one core.
pub struct Envoy(pub Arc<CheckService>);

#[tonic::async_trait]
impl RateLimitService for Envoy {
    async fn should_rate_limit(
        &self,
        request: Request<Checked<RateLimitRequest>>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let metadata = CallMetadata::of(request.metadata());
        let Checked { message, unknown } = request.into_inner();
        let id = self.0.ids.take(metadata.request_id.as_deref());
        if !unknown.is_empty() {
            self.0.warn_of_unknown_fields(&unknown);
        }
        let descriptors = message.descriptors.len();
        let decision = match read(message) {
            Ok(check) => self.0.check(check, metadata.timeout, &id).await,
            Err(violations) => {
                let rejection = self.0.reject(Rejection::Invalid(violations), &id);
                self.0.warn_of_invalid_call(&rejection.code_and_message().1);
                Err(rejection)
            }
        };
        match decision {
            Ok(decision) => Ok(with_id(Response::new(answer(&decision, descriptors)), &id)),
            Err(rejection) => Err(rejection.into_status(&id)),
        }
    }
}

/// The answer to a call whose message found no room. It is a denial: an error would let a gateway that fails open pass
/// the request, and its client may have chosen how long the message is.
pub fn without_room() -> RateLimitResponse {
    let reason = HeaderValue {
        key: headers::REASON.to_owned(),
        value: headers::TOO_MANY_BYTES.to_owned(),
        ..HeaderValue::default()
    };
    RateLimitResponse {
        overall_code: Code::OverLimit.into(),
        response_headers_to_add: vec![reason],
        ..RateLimitResponse::default()
    }
}

fn read(request: RateLimitRequest) -> Result<CheckRequest, Vec<FieldViolation>> {
    let RateLimitRequest { domain, descriptors, hits_addend } = request;
    let mut violations = Vec::new();
    let each = descriptors.into_iter().enumerate();
    let descriptors =
        each.map(|(at, descriptor)| read_descriptor(at, descriptor, hits_addend, &mut violations)).collect();
    CheckRequest::from_gateway(domain, descriptors, violations, |field| match field {
        Field::Domain => "domain".to_owned(),
        Field::Descriptors => "descriptors".to_owned(),
        Field::Attributes(at) => format!("descriptors[{at}].entries"),
        Field::Name(at, entry, _) => format!("descriptors[{at}].entries[{entry}].key"),
        Field::Value(at, entry, _) => format!("descriptors[{at}].entries[{entry}].value"),
    })
}

fn read_descriptor(
    at: usize,
    descriptor: RateLimitDescriptor,
    hits_of_request: u32,
    violations: &mut Vec<FieldViolation>,
) -> DescriptorRequest {
    // A client may choose the number, by a header or by the size of a body: more than can be counted is no error.
    let hits = descriptor.hits_addend.map_or(hits_of_request.max(1), |hits| u32::try_from(hits).unwrap_or(u32::MAX));
    let charging = if descriptor.is_negative_hits { Charging::Refund } else { Charging::IfAllowed };
    let limit = descriptor.limit.and_then(|limit| {
        let limit = read_limit(limit);
        if limit.is_none() {
            let place = format!("descriptors[{at}].limit.unit");
            violations.push(violation(place, "expected a unit from SECOND to YEAR"));
        }
        limit
    });
    let text = client_text::from_vec;
    let attributes = descriptor.entries.into_iter().map(|entry| (text(entry.key), text(entry.value))).collect();
    DescriptorRequest { attributes: Attributes(attributes), ordered: true, hits, charging, limit }
}

fn answer(decision: &Decision, descriptors: usize) -> RateLimitResponse {
    let code = |allowed| i32::from(if allowed { Code::Ok } else { Code::OverLimit });
    // The limits are in the order of the descriptors.
    let mut rest = decision.limits.as_slice();
    let statuses = (0..descriptors).map(|at| {
        let limits;
        (limits, rest) = rest.split_at(rest.iter().take_while(|limit| limit.descriptor == at).count());
        let limits = limits.iter();
        let allowed = !headers::denied_without_limits(decision) && !limits.clone().any(|l| l.denied && !l.shadow);
        // If no limit has a number, an unlimited one is shown.
        let shown = tightest(limits.clone()).or_else(|| limits.clone().find(|l| !l.shadow));
        match shown {
            Some(limit) => DescriptorStatus { code: code(allowed), ..status(limit) },
            None => DescriptorStatus { code: code(allowed), ..DescriptorStatus::default() },
        }
    });
    let header = |key: &str, value: String| HeaderValue { key: key.to_owned(), value, ..HeaderValue::default() };
    let of_limits = headers::of_denying_limits(decision.limits.iter());
    let mut response_headers_to_add: Vec<_> = of_limits.map(|(key, value)| header(key, value.to_owned())).collect();
    let retry_after = decision.retry_after.map(|wait| header("retry-after", headers::seconds(wait).to_string()));
    let shadow = headers::shadow_denials(decision).map(|names| header(headers::SHADOW, names));
    let reason = headers::reason(decision).map(|reason| header(headers::REASON, reason.to_owned()));
    response_headers_to_add.extend(retry_after.into_iter().chain(shadow).chain(reason));
    let (overall_code, statuses) = (code(decision.allowed), statuses.collect());
    RateLimitResponse { overall_code, statuses, response_headers_to_add, ..RateLimitResponse::default() }
}

fn status(limit: &LimitStatus) -> DescriptorStatus {
    let (unit, count) = in_units(limit.window_ms());
    let current_limit = limit.limit().map(|most| RateLimit {
        name: limit.effective.name.to_string(),
        requests_per_unit: u32::try_from(most).unwrap_or(u32::MAX),
        unit: unit.into(),
        unit_multiplier: Some(count).filter(|count| *count > 1),
    });
    // Envoy's own headers cut off a part of a second.
    let seconds = i64::try_from(headers::seconds(limit.shown_reset())).unwrap_or(i64::MAX);
    DescriptorStatus {
        current_limit,
        // An unlimited limit shows the largest number.
        limit_remaining: limit.remaining.map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        duration_until_reset: Some(prost_types::Duration { seconds, nanos: 0 }),
        ..DescriptorStatus::default()
    }
}

#[cfg(test)]
#[path = "envoy_tests.rs"]
mod tests;
