//! Envoy's rate limit service, version 3.

use std::sync::Arc;

use limiter::rules::{CalendarUnit, Period};
use limiter::{Charging, Decision, LimitStatus, tightest};
use proto::envoy::config::core::v3::HeaderValue;
use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::RateLimitOverride;
use proto::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use proto::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use proto::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitService;
use proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tonic::{Request, Response, Status};

use super::metadata::{CallMetadata, with_id};
use crate::api::attributes::{Attributes, CheckRequest, DescriptorRequest, Field};
use crate::api::check_service::CheckService;
use crate::api::headers;
use crate::api::rejection::{FieldViolation, Rejection, violation};

/// Envoy's service of one core.
pub struct Envoy(pub Arc<CheckService>);

#[tonic::async_trait]
impl RateLimitService for Envoy {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let metadata = CallMetadata::of(&metadata);
        let id = self.0.ids.take(metadata.request_id);
        let descriptors = request.descriptors.len();
        let decision = match read(request) {
            Ok(check) => self.0.check(check, metadata.timeout, &id).await,
            Err(violations) => Err(self.0.reject(Rejection::Invalid(violations), &id)),
        };
        match decision {
            Ok(decision) => Ok(with_id(Response::new(answer(&decision, descriptors)), &id)),
            Err(rejection) => Err(rejection.into_status(&id)),
        }
    }
}

fn read(request: RateLimitRequest) -> Result<CheckRequest, Vec<FieldViolation>> {
    let RateLimitRequest { domain, descriptors, hits_addend } = request;
    let mut violations = Vec::new();
    let each = descriptors.into_iter().enumerate();
    let descriptors =
        each.map(|(at, descriptor)| read_descriptor(at, descriptor, hits_addend, &mut violations)).collect();
    CheckRequest::new(domain, descriptors, violations, |field| match field {
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
    let hits = match descriptor.hits_addend {
        Some(hits) => u32::try_from(hits).unwrap_or_else(|_| {
            let expected = format!("expected at most {}", u32::MAX);
            violations.push(violation(format!("descriptors[{at}].hits_addend"), expected));
            1
        }),
        None => hits_of_request.max(1),
    };
    let limit = descriptor.limit.and_then(|limit| {
        let limit = read_limit(limit);
        if limit.is_none() {
            let place = format!("descriptors[{at}].limit.unit");
            violations.push(violation(place, "expected a unit from SECOND to YEAR"));
        }
        limit
    });
    let attributes = descriptor.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    DescriptorRequest { attributes: Attributes(attributes), ordered: true, hits, charging: Charging::IfAllowed, limit }
}

/// The limit of a descriptor; `None` if its unit is unknown.
fn read_limit(limit: RateLimitOverride) -> Option<(u64, Period)> {
    let RateLimitOverride { requests_per_unit, unit } = limit;
    let window = |ms| Some(Period::Window { ms });
    let calendar = |unit| Some(Period::Calendar { unit, time_zone: "UTC".to_owned() });
    let period = match Unit::try_from(unit) {
        Ok(Unit::Second) => window(1000),
        Ok(Unit::Minute) => window(60_000),
        Ok(Unit::Hour) => window(3_600_000),
        Ok(Unit::Day) => window(86_400_000),
        Ok(Unit::Week) => calendar(CalendarUnit::Week),
        Ok(Unit::Month) => calendar(CalendarUnit::Month),
        Ok(Unit::Year) => calendar(CalendarUnit::Year),
        Ok(Unit::Unknown) | Err(_) => None,
    };
    Some((u64::from(requests_per_unit), period?))
}

fn answer(decision: &Decision, descriptors: usize) -> RateLimitResponse {
    let code = |allowed| i32::from(if allowed { Code::Ok } else { Code::OverLimit });
    let statuses = (0..descriptors).map(|at| {
        let limits = decision.limits.iter().filter(move |l| l.descriptor == at);
        let allowed = !limits.clone().any(|l| l.denied && !l.shadow);
        // If no limit has a number, an unlimited one is shown.
        let shown = tightest(limits.clone()).or_else(|| limits.clone().find(|l| !l.shadow));
        match shown {
            Some(limit) => DescriptorStatus { code: code(allowed), ..status(limit) },
            None => DescriptorStatus { code: code(allowed), ..DescriptorStatus::default() },
        }
    });
    let mut response_headers_to_add: Vec<HeaderValue> = headers::of_denying_limits(decision.limits.iter())
        .map(|(key, value)| HeaderValue { key: key.to_owned(), value: value.to_owned() })
        .collect();
    if let Some(wait) = decision.retry_after {
        let seconds = wait.div_ceil(1_000_000).to_string();
        response_headers_to_add.push(HeaderValue { key: "retry-after".to_owned(), value: seconds });
    }
    RateLimitResponse { overall_code: code(decision.allowed), statuses: statuses.collect(), response_headers_to_add }
}

fn status(limit: &LimitStatus) -> DescriptorStatus {
    let current_limit = limit.limit().map(|most| RateLimit {
        name: limit.effective.name.to_string(),
        requests_per_unit: u32::try_from(most).unwrap_or(u32::MAX),
        unit: unit(limit.effective.window_ms).into(),
    });
    DescriptorStatus {
        code: Code::Unknown.into(),
        current_limit,
        // An unlimited limit shows the largest number.
        limit_remaining: limit.remaining.map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        duration_until_reset: Some(prost_types::Duration {
            seconds: i64::try_from(limit.reset / 1_000_000).unwrap_or(i64::MAX),
            nanos: i32::try_from(limit.reset % 1_000_000 * 1000).unwrap_or(0),
        }),
    }
}

/// Envoy's unit for a window; `UNKNOWN` if it has none.
const fn unit(window_ms: u64) -> Unit {
    const DAY: u64 = 86_400_000;
    match window_ms {
        1000 => Unit::Second,
        60_000 => Unit::Minute,
        3_600_000 => Unit::Hour,
        DAY => Unit::Day,
        604_800_000 => Unit::Week,
        2_592_000_000 => Unit::Month,
        31_536_000_000 => Unit::Year,
        _ => Unit::Unknown,
    }
}
