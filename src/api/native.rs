//! Tidegate's own gRPC calls.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use tokio::sync::watch;
use tonic::{Request, Response, Status, Streaming};

use super::desk::Desk;
use super::native_stream::{Answers, answers};
use super::questions::{self, MAX_CHECKS, MAX_DESCRIPTORS_IN_ALL};
use super::request_id::{RequestId, RequestIds};
use super::status::{Rejection, fault};
use super::wait::{Waits, with_id};
use crate::ports::{Answer, Unavailable};
use limiter::{Decision, NodeTime, millis_up};
use proto::tidegate::v1::rate_limit_service_server::RateLimitService;
use proto::tidegate::v1::{
    CheckBatchRequest, CheckBatchResponse, CheckRequest, CheckResponse, Error, LimitStatus, ReserveRequest,
    ReserveResponse, ResetRequest, ResetResponse, SettleRequest, SettleResponse,
};

/// The service of one core.
pub struct Native {
    pub desk: Arc<Desk>,
    /// Closed, or changed, when the node has done with its connections: streams end then.
    pub ending: watch::Receiver<()>,
}

/// What becomes of a check of a message.
pub(super) enum Asked {
    Rejected(Rejection),
    /// Begun at that instant.
    Begun(NodeTime, Answer),
}

impl Native {
    fn not_built<T>(&self, request: &Request<T>) -> Status {
        let id = self.desk.ids.take(Waits::of(request.metadata()).request_id);
        self.desk.reject(Rejection::NotBuilt, &id).into_status(&id)
    }
}

/// Begins the checks of a message, all at once, in order.
pub(super) fn ask(desk: &Desk, requests: &[CheckRequest], within: Option<Duration>) -> Vec<Asked> {
    let faults: Vec<_> = requests.iter().map(questions::faults).collect();
    let valid = requests.iter().zip(&faults).filter(|(_, faults)| faults.is_empty()).map(|(request, _)| request);
    let (arrived, begun) = questions::with_checks(valid, |checks| desk.begin(checks, within));
    let mut begun = begun.into_iter();
    let asked = faults.into_iter().map(|faults| {
        let answer = if faults.is_empty() { begun.next() } else { None };
        answer.map_or(Asked::Rejected(Rejection::Invalid(faults)), |answer| Asked::Begun(arrived, answer))
    });
    asked.collect()
}

/// The id of a check of a message: its own, else the call's, else a new one.
fn id_of<'a>(ids: &RequestIds, request: &'a CheckRequest, call: Option<&'a str>) -> RequestId<'a> {
    ids.take(Some(request.request_id.as_str()).filter(|id| !id.is_empty()).or(call))
}

/// The answer to a check of a message: under the id that it brought, also where that is what was wrong with it.
pub(super) async fn answer(desk: &Desk, asked: Asked, check: &CheckRequest, call: Option<&str>) -> CheckResponse {
    let id = id_of(&desk.ids, check, call);
    let mut answer = response_or_error(outcome(desk, asked, &id).await, &id);
    if answer.error.is_some() && !check.request_id.is_empty() {
        answer.request_id.clone_from(&check.request_id);
    }
    answer
}

async fn outcome(desk: &Desk, asked: Asked, id: &RequestId<'_>) -> Result<Decision, Rejection> {
    match asked {
        Asked::Begun(arrived, answer) => desk.decided(answer.get().await, arrived, id),
        Asked::Rejected(rejection) => Err(desk.reject(rejection, id)),
    }
}

/// The answer to a check, where an error is an answer as well.
fn response_or_error(outcome: Result<Decision, Rejection>, id: &RequestId<'_>) -> CheckResponse {
    match outcome {
        Ok(decision) => response(&decision, id),
        Err(rejection) => {
            let (code, message) = rejection.code_and_message();
            let error = Some(Error { code: i32::from(code), message });
            CheckResponse { request_id: id.to_text(), error, ..CheckResponse::default() }
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
        refused: limit.denied,
        shadow: limit.shadow,
    });
    CheckResponse {
        allowed: decision.allowed,
        degraded: decision.degraded,
        revision: decision.revision.0,
        request_id: id.to_text(),
        retry_after_ms: decision.retry_after.map(millis_up),
        limits: limits.collect(),
        error: None,
    }
}

#[tonic::async_trait]
impl RateLimitService for Native {
    async fn check(&self, request: Request<CheckRequest>) -> Result<Response<CheckResponse>, Status> {
        let waits = Waits::of(request.metadata());
        let (desk, request) = (&self.desk, request.get_ref());
        let id = id_of(&desk.ids, request, waits.request_id);
        let faults = questions::faults(request);
        let decision = if faults.is_empty() {
            let (arrived, begun) =
                questions::with_checks(std::iter::once(request), |checks| desk.begin(checks, waits.within));
            let answer = begun.into_iter().next().unwrap_or(Answer::Now(Err(Unavailable::Restarted)));
            desk.decided(answer.get().await, arrived, &id)
        } else {
            Err(desk.reject(Rejection::Invalid(faults), &id))
        };
        match decision {
            Ok(decision) => Ok(with_id(Response::new(response(&decision, &id)), &id)),
            Err(rejection) => Err(rejection.into_status(&id)),
        }
    }

    async fn check_batch(&self, request: Request<CheckBatchRequest>) -> Result<Response<CheckBatchResponse>, Status> {
        let waits = Waits::of(request.metadata());
        let (desk, checks) = (&self.desk, &request.get_ref().checks);
        let mut faults = Vec::new();
        if checks.len() > MAX_CHECKS {
            faults.push(fault("checks", format!("expected at most {MAX_CHECKS}")));
        } else if checks.iter().map(questions::weight).sum::<usize>() > MAX_DESCRIPTORS_IN_ALL {
            faults
                .push(fault("checks", format!("expected at most {MAX_DESCRIPTORS_IN_ALL} descriptors in all of them")));
        }
        if !faults.is_empty() {
            let id = desk.ids.take(waits.request_id);
            return Err(desk.reject(Rejection::Invalid(faults), &id).into_status(&id));
        }
        let asked = ask(desk, checks, waits.within);
        let waits_for_store = asked.iter().any(|asked| matches!(asked, Asked::Begun(_, Answer::Later(_))));
        let each = asked.into_iter().zip(checks).map(|(asked, check)| answer(desk, asked, check, waits.request_id));
        let results = if waits_for_store {
            join_all(each).await
        } else {
            let mut results = Vec::with_capacity(checks.len());
            for one in each {
                results.push(one.await);
            }
            results
        };
        Ok(with_id(Response::new(CheckBatchResponse { results }), &desk.ids.take(waits.request_id)))
    }

    type CheckStreamStream = Answers;

    async fn check_stream(&self, request: Request<Streaming<CheckRequest>>) -> Result<Response<Answers>, Status> {
        Ok(Response::new(answers(Arc::clone(&self.desk), request.into_inner(), self.ending.clone())))
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
