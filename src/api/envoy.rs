//! Envoy's rate limit service, version 3.

use std::sync::Arc;

use tonic::{Request, Response, Status};

use super::desk::{Desk, MAX_DESCRIPTORS, MAX_ENTRIES, MAX_VALUE};
use super::headers;
use super::status::{Fault, Rejection, fault};
use super::wait::{Waits, with_id};
use limiter::rules::{CalendarUnit, Period};
use limiter::{Check, Decision, Descriptor, LimitStatus, tightest};
use proto::envoy::config::core::v3::HeaderValue;
use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::RateLimitOverride;
use proto::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use proto::envoy::service::ratelimit::v3::rate_limit_response::{Code, DescriptorStatus, RateLimit};
use proto::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitService;
use proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};

/// The service of one core.
pub struct Envoy(pub Arc<Desk>);

#[tonic::async_trait]
impl RateLimitService for Envoy {
    async fn should_rate_limit(
        &self,
        request: Request<RateLimitRequest>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        let waits = Waits::of(request.metadata());
        let request = request.get_ref();
        let id = self.0.ids.take(waits.request_id);
        let entries: Vec<Vec<(&str, &str)>> = request
            .descriptors
            .iter()
            .map(|d| d.entries.iter().map(|e| (e.key.as_str(), e.value.as_str())).collect())
            .collect();
        let descriptors = match read(request, &entries) {
            Ok(descriptors) => descriptors,
            Err(faults) => return Err(self.0.reject(Rejection::Invalid(faults), &id).into_status(&id)),
        };
        let check = Check { domain: &request.domain, descriptors: &descriptors };
        match self.0.decide(&check, waits.within, &id).await {
            Ok(decision) => Ok(with_id(Response::new(answer(&decision, descriptors.len())), &id)),
            Err(rejection) => Err(rejection.into_status(&id)),
        }
    }
}

fn read<'a>(
    request: &'a RateLimitRequest,
    entries: &'a [Vec<(&'a str, &'a str)>],
) -> Result<Vec<Descriptor<'a>>, Vec<Fault>> {
    let mut faults = Vec::new();
    if !(1..=MAX_VALUE).contains(&request.domain.len()) {
        faults.push(fault("domain", "expected a string of 1 to 4096 bytes: it is required"));
    }
    if !(1..=MAX_DESCRIPTORS).contains(&request.descriptors.len()) {
        faults.push(fault("descriptors", format!("expected 1 to {MAX_DESCRIPTORS}")));
        return Err(faults);
    }
    let mut all = Vec::with_capacity(entries.len());
    for (at, (descriptor, entries)) in request.descriptors.iter().zip(entries).enumerate() {
        let limit = check_descriptor(&format!("descriptors[{at}]"), descriptor, &mut faults);
        let hits = match &descriptor.hits_addend {
            Some(hits) => u32::try_from(*hits).unwrap_or_else(|_| {
                let expected = format!("expected at most {}", u32::MAX);
                faults.push(fault(format!("descriptors[{at}].hits_addend"), expected));
                1
            }),
            None => request.hits_addend.max(1),
        };
        all.push(Descriptor { entries, ordered: true, hits, limit });
    }
    if faults.is_empty() { Ok(all) } else { Err(faults) }
}

/// The limit that the descriptor brings, if any.
fn check_descriptor(path: &str, descriptor: &RateLimitDescriptor, faults: &mut Vec<Fault>) -> Option<(u64, Period)> {
    if descriptor.entries.len() > MAX_ENTRIES {
        faults.push(fault(format!("{path}.entries"), format!("expected at most {MAX_ENTRIES}")));
        return None;
    }
    for (at, entry) in descriptor.entries.iter().enumerate() {
        for (field, text) in [("key", &entry.key), ("value", &entry.value)] {
            if text.len() > MAX_VALUE {
                let path = format!("{path}.entries[{at}].{field}");
                faults.push(fault(path, "expected a string of at most 4096 bytes"));
            }
        }
    }
    let RateLimitOverride { requests_per_unit, unit } = descriptor.limit.as_ref()?;
    let window = |ms| Some(Period::Window { ms });
    let calendar = |unit| Some(Period::Calendar { unit, time_zone: "UTC".to_owned() });
    let period = match Unit::try_from(*unit) {
        Ok(Unit::Second) => window(1000),
        Ok(Unit::Minute) => window(60_000),
        Ok(Unit::Hour) => window(3_600_000),
        Ok(Unit::Day) => window(86_400_000),
        Ok(Unit::Week) => calendar(CalendarUnit::Week),
        Ok(Unit::Month) => calendar(CalendarUnit::Month),
        Ok(Unit::Year) => calendar(CalendarUnit::Year),
        Ok(Unit::Unknown) | Err(_) => None,
    };
    if period.is_none() {
        faults.push(fault(format!("{path}.limit.unit"), "expected a unit from SECOND to YEAR"));
    }
    Some((u64::from(*requests_per_unit), period?))
}

fn answer(decision: &Decision, descriptors: usize) -> RateLimitResponse {
    let code = |allowed| i32::from(if allowed { Code::Ok } else { Code::OverLimit });
    let statuses = (0..descriptors).map(|at| {
        let limits = decision.limits.iter().filter(move |l| l.descriptor == at);
        let allowed = !limits.clone().any(|l| l.denied && !l.shadow);
        // Where none is limited, an unlimited one stands for all.
        let shown = tightest(limits.clone()).or_else(|| limits.clone().find(|l| !l.shadow));
        match shown {
            Some(limit) => DescriptorStatus { code: code(allowed), ..status(limit) },
            None => DescriptorStatus { code: code(allowed), ..DescriptorStatus::default() },
        }
    });
    let mut response_headers_to_add: Vec<HeaderValue> = headers::added(decision.limits.iter())
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
        // As many as that are left of what has no limit.
        limit_remaining: limit.remaining.map_or(u32::MAX, |n| u32::try_from(n).unwrap_or(u32::MAX)),
        duration_until_reset: Some(prost_types::Duration {
            seconds: i64::try_from(limit.reset / 1_000_000).unwrap_or(i64::MAX),
            nanos: i32::try_from(limit.reset % 1_000_000 * 1000).unwrap_or(0),
        }),
    }
}

/// Envoy's word for a window, `UNKNOWN` where it has none.
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
