//! Tidegate's own gRPC calls.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tonic::{Request, Response, Status, Streaming};

use super::desk::{Desk, MAX_DESCRIPTORS, MAX_ENTRIES, MAX_VALUE};
use super::proto::tidegate::v1::rate_limit_service_server::RateLimitService;
use super::proto::tidegate::v1::{
    CheckBatchRequest, CheckBatchResponse, CheckRequest, CheckResponse, Error, LimitStatus, ReserveRequest,
    ReserveResponse, ResetRequest, ResetResponse, SettleRequest, SettleResponse,
};
use super::request_id::RequestId;
use super::status::{Fault, Rejection, fault};
use super::wait::{Waits, with_id};
use crate::limiter::decision::{Check, Decision, Descriptor};
use crate::limiter::time::millis_up;

/// The most checks in one batch.
const MAX_CHECKS: usize = 1000;
/// So many checks of a batch are begun at a time.
const TURN: usize = 32;

/// The service of one core.
pub struct Native(pub Arc<Desk>);

impl Native {
    fn not_built<T>(&self, request: &Request<T>) -> Status {
        let id = self.0.ids.take(Waits::of(request.metadata()).request_id);
        self.0.reject(Rejection::NotBuilt, &id).into_status(&id)
    }

    async fn check_one<'a>(
        &self,
        request: &'a CheckRequest,
        waits: &Waits<'a>,
    ) -> (RequestId<'a>, Result<Decision, Rejection>) {
        let desk = &self.0;
        let given = Some(request.request_id.as_str()).filter(|id| !id.is_empty());
        let id = desk.ids.take(given.or(waits.request_id));
        let faults = faults(request);
        if !faults.is_empty() {
            let rejection = desk.reject(Rejection::Invalid(faults), &id);
            return (id, Err(rejection));
        }
        let one = [&request.attributes];
        let maps: Vec<&HashMap<String, String>> = if request.descriptors.is_empty() {
            one.to_vec()
        } else {
            request.descriptors.iter().map(|d| &d.attributes).collect()
        };
        let entries: Vec<Vec<(&str, &str)>> =
            maps.iter().map(|map| map.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect()).collect();
        let hits = request.hits.unwrap_or(1);
        let descriptors: Vec<Descriptor<'_>> =
            entries.iter().map(|entries| Descriptor { entries, ordered: false, hits, limit: None }).collect();
        let check = Check { domain: &request.domain, descriptors: &descriptors };
        let decision = desk.decide(&check, waits.within, &id).await;
        (id, decision)
    }
}

fn faults(request: &CheckRequest) -> Vec<Fault> {
    let mut faults = Vec::new();
    if !(1..=MAX_VALUE).contains(&request.domain.len()) {
        faults.push(fault("domain", "expected a string of 1 to 4096 bytes: it is required"));
    }
    if !request.attributes.is_empty() && !request.descriptors.is_empty() {
        faults.push(fault("descriptors", "expected either attributes or descriptors, not both"));
    }
    if request.descriptors.len() > MAX_DESCRIPTORS {
        faults.push(fault("descriptors", format!("expected at most {MAX_DESCRIPTORS}")));
    }
    check_map("attributes", &request.attributes, &mut faults);
    for (at, descriptor) in request.descriptors.iter().enumerate().take(MAX_DESCRIPTORS) {
        check_map(&format!("descriptors[{at}].attributes"), &descriptor.attributes, &mut faults);
    }
    faults
}

fn check_map(path: &str, map: &HashMap<String, String>, faults: &mut Vec<Fault>) {
    if map.len() > MAX_ENTRIES {
        faults.push(fault(path, format!("expected at most {MAX_ENTRIES} attributes")));
        return;
    }
    for (key, value) in map {
        if key.len() > MAX_VALUE {
            faults.push(fault(path, "expected names of at most 4096 bytes"));
        } else if value.len() > MAX_VALUE {
            faults.push(fault(format!("{path}[{key:?}]"), "expected a string of at most 4096 bytes"));
        }
    }
}

fn response(decision: &Decision, id: &RequestId<'_>) -> CheckResponse {
    let limits = decision.limits.iter().map(|limit| LimitStatus {
        name: limit.effective.name.to_string(),
        descriptor: u32::try_from(limit.descriptor).unwrap_or(u32::MAX),
        algorithm: limit.effective.algorithm.as_str().to_owned(),
        limit: limit.limit(),
        remaining: limit.remaining,
        window_ms: limit.effective.window_ms,
        reset_ms: millis_up(limit.reset),
        refused: limit.refused,
        shadow: limit.shadow,
    });
    CheckResponse {
        allowed: decision.allowed,
        degraded: decision.degraded,
        revision: decision.revision,
        request_id: id.to_string(),
        retry_after_ms: decision.retry_after.map(millis_up),
        limits: limits.collect(),
        error: None,
    }
}

#[tonic::async_trait]
impl RateLimitService for Native {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let waits = Waits::of(request.metadata());
        let (id, decision) = self.check_one(request.get_ref(), &waits).await;
        match decision {
            Ok(decision) => Ok(with_id(Response::new(response(&decision, &id)), &id)),
            Err(rejection) => Err(rejection.into_status(&id)),
        }
    }

    async fn check_batch(&self, request: Request<CheckBatchRequest>) -> Result<Response<CheckBatchResponse>, Status> {
        let waits = Waits::of(request.metadata());
        let checks = &request.get_ref().checks;
        if checks.len() > MAX_CHECKS {
            let faults = vec![fault("checks", format!("expected at most {MAX_CHECKS}"))];
            let id = self.0.ids.take(waits.request_id);
            return Err(self.0.reject(Rejection::Invalid(faults), &id).into_status(&id));
        }
        let waits = &waits;
        let in_turn = checks.iter().enumerate().map(async |(at, check)| {
            // Others have their turn in between: their answers from the store must not grow old meanwhile.
            for _ in 0..at / TURN {
                tokio::task::yield_now().await;
            }
            self.check_one(check, waits).await
        });
        let results = join_all(in_turn).await;
        let results = results.into_iter().map(|(id, decision)| match decision {
            Ok(decision) => response(&decision, &id),
            Err(rejection) => {
                let (code, message) = rejection.code_and_message();
                let error = Some(Error { code: i32::from(code), message });
                CheckResponse { request_id: id.to_string(), error, ..CheckResponse::default() }
            }
        });
        let response = Response::new(CheckBatchResponse { results: results.collect() });
        Ok(with_id(response, &self.0.ids.take(waits.request_id)))
    }

    type CheckStreamStream = tokio_stream::Empty<Result<CheckResponse, Status>>;

    async fn check_stream(
        &self,
        request: Request<Streaming<CheckRequest>>,
    ) -> Result<Response<Self::CheckStreamStream>, Status> {
        Err(self.not_built(&request))
    }

    async fn reserve(&self, request: Request<ReserveRequest>) -> Result<Response<ReserveResponse>, Status> {
        Err(self.not_built(&request))
    }

    async fn settle(&self, request: Request<SettleRequest>) -> Result<Response<SettleResponse>, Status> {
        Err(self.not_built(&request))
    }

    async fn reset(&self, request: Request<ResetRequest>) -> Result<Response<ResetResponse>, Status> {
        Err(self.not_built(&request))
    }
}
