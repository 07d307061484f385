//! The one service behind every front end: it resolves the identity of a check, decides it, and observes the outcome.

use std::sync::Arc;
use std::time::Duration;

use limiter::{Decision, NodeTime};
use tonic::{Code, Status};

use super::attributes::{CheckRequest, with_checks};
use super::rejection::Rejection;
use super::request_id::{RequestId, RequestIds};
use crate::ports::{Answer, Clock, Limiter, Unavailable};
use crate::telemetry::checks::CheckMetrics;
use crate::telemetry::tally::Tally;

/// The check service of one core.
pub struct CheckService {
    pub limiter: Arc<dyn Limiter>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<CheckMetrics>,
    pub tally: Arc<Tally>,
    pub ids: RequestIds,
}

/// A check that the limiter has begun to decide.
pub struct PendingAnswer {
    arrived: NodeTime,
    answer: Answer,
}

impl PendingAnswer {
    /// True if the check waits for the store.
    pub const fn waits(&self) -> bool {
        matches!(self.answer, Answer::Later(_))
    }
}

impl CheckService {
    /// Decides one check. `timeout` is how long the caller waits.
    pub async fn check(
        &self,
        mut request: CheckRequest,
        timeout: Option<Duration>,
        id: &RequestId<'_>,
    ) -> Result<Decision, Rejection> {
        let arrived = self.clock.now();
        self.resolve(&mut request).await;
        let answer = with_checks(std::iter::once(&request), |checks| {
            checks.first().map(|check| self.limiter.check(check, arrived, timeout))
        });
        let outcome = match answer {
            Some(answer) => answer.get().await,
            None => Err(Unavailable::Restarted),
        };
        self.observe(&request, outcome, arrived, id)
    }

    /// Begins to decide many checks at once, in order. [`Self::finish`] has the decision of each.
    pub async fn begin(&self, requests: &mut [CheckRequest], timeout: Option<Duration>) -> Vec<PendingAnswer> {
        let arrived = self.clock.now();
        for request in requests.iter_mut() {
            self.resolve(request).await;
        }
        let answers = with_checks(requests.iter(), |checks| self.limiter.check_all(checks, arrived, timeout));
        answers.into_iter().map(|answer| PendingAnswer { arrived, answer }).collect()
    }

    /// Waits for the decision of a check that was begun.
    pub async fn finish(
        &self,
        request: &CheckRequest,
        pending: PendingAnswer,
        id: &RequestId<'_>,
    ) -> Result<Decision, Rejection> {
        self.observe(request, pending.answer.get().await, pending.arrived, id)
    }

    /// Adds what the node knows of the caller to the attributes. It knows nothing yet: this is where API keys, users
    /// and tiers come in.
    async fn resolve(&self, _request: &mut CheckRequest) {}

    /// Counts and logs the outcome of a check that arrived at `arrived`. Events will begin here.
    fn observe(
        &self,
        _request: &CheckRequest,
        outcome: Result<Decision, Unavailable>,
        arrived: NodeTime,
        id: &RequestId<'_>,
    ) -> Result<Decision, Rejection> {
        match outcome {
            Ok(decision) => {
                self.tally.decided(&decision, self.clock.now().since(arrived));
                let Decision { allowed, degraded, revision, .. } = decision;
                let domain = decision.domain.as_deref();
                tracing::debug!(request_id = %id, domain, allowed, degraded, %revision, "check");
                Ok(decision)
            }
            Err(unavailable) => Err(self.reject(Rejection::Unavailable(unavailable), id)),
        }
    }

    /// Counts a check that is denied before any limit is asked.
    pub fn deny(&self) {
        self.tally.denied_without_limits();
    }

    /// Counts and logs a request that gets no decision.
    pub fn reject(&self, rejection: Rejection, id: &RequestId<'_>) -> Rejection {
        // The budget of arriving bodies counts what it rejects.
        if !matches!(rejection, Rejection::Unavailable(Unavailable::Reading)) {
            self.metrics.failed(rejection.shed_reason());
        }
        tracing::debug!(request_id = %id, ?rejection, "check without a decision");
        rejection
    }

    /// Counts and logs a gRPC message that the library could not read: it is too large, or no message. What the budget
    /// of arriving bodies rejects is counted there, and a client that has gone gets no answer.
    pub fn unreadable(&self, status: &Status) {
        if matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::DeadlineExceeded) {
            return;
        }
        self.metrics.failed(None);
        self.metrics.unreadable.inc();
        self.warn_of_invalid_call(status.message());
    }

    /// Logs that a call got an error that its gateway caused, not its client.
    pub fn warn_of_invalid_call(&self, error: &str) {
        if let Some(more) = self.metrics.invalid_calls_log.admit(self.clock.now()) {
            tracing::warn!(error, more, "a gRPC call is invalid: a gateway may let the request of its client pass");
        }
    }

    /// Counts and logs the fields of a call that this version does not know.
    pub fn warn_of_unknown_fields(&self, fields: &[String]) {
        self.metrics.unknown_fields.inc();
        if let Some(more) = self.metrics.unknown_fields_log.admit(self.clock.now()) {
            tracing::warn!(?fields, more, "a call has fields that this version does not know: their meaning is lost");
        }
    }
}
