//! The one service behind every front end: it resolves the identity of a check, decides it, and observes the outcome.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use limiter::rules::{Identity, IdentityTerms, OnIdentityFailure};
use limiter::{Decision, IdentityProblem, NodeTime};
use tonic::{Code, Status};

use super::attributes::{CheckRequest, with_checks};
use super::identity::{Identification, forget_keys, identify};
use super::rejection::{Rejection, violation};
use super::request_id::{RequestId, RequestIds};
use crate::ports::identity::Identities;
use crate::ports::{Answer, Clock, Limiter, Unavailable};
use crate::telemetry::checks::CheckMetrics;
use crate::telemetry::tally::Tally;

/// How long a check waits for the look-up of its API key. It is longer than a look-up may take.
const MAX_IDENTIFICATION: Duration = Duration::from_secs(2);

/// The check service of one core.
pub struct CheckService {
    pub limiter: Arc<dyn Limiter>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<CheckMetrics>,
    pub tally: Arc<Tally>,
    pub ids: RequestIds,
    pub identities: Arc<dyn Identities>,
}

/// A check that the limiter has begun to decide.
pub struct PendingAnswer {
    arrived: NodeTime,
    answer: PendingState,
    identity: Option<IdentityProblem>,
}

/// What a check that was begun waits for.
enum PendingState {
    Limiter(Answer),
    /// The check is decided without the limiter.
    Decided(Result<Decision, Rejection>),
}

impl PendingAnswer {
    /// True if the check waits for the store.
    pub const fn waits(&self) -> bool {
        matches!(self.answer, PendingState::Limiter(Answer::Later(_)))
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
        let terms = self.limiter.identity(request.domain());
        let (mut identity, mut begun) = (None, arrived);
        if terms.identity != Identity::Caller {
            match self.resolve(terms, &mut request, timeout).await {
                Ok(problem) => (identity, begun) = (problem, self.clock.now()),
                Err(decided) => return self.finish_decided(&request, decided, arrived, id),
            }
        }
        let answer = with_checks(std::iter::once(&request), |checks| {
            checks.first().map(|check| self.limiter.check(check, begun, timeout))
        });
        let outcome = match answer {
            Some(answer) => answer.get().await,
            None => Err(Unavailable::Restarted),
        };
        self.observe(&request, outcome.map(|decision| Decision { identity, ..decision }), arrived, id)
    }

    /// Begins to decide many checks at once, in order. [`Self::finish`] has the decision of each.
    pub async fn begin(&self, requests: &mut [CheckRequest], timeout: Option<Duration>) -> Vec<PendingAnswer> {
        let arrived = self.clock.now();
        let all_callers =
            requests.iter().all(|request| self.limiter.identity(request.domain()).identity == Identity::Caller);
        if all_callers {
            let answers = with_checks(requests.iter(), |checks| self.limiter.check_all(checks, arrived, timeout));
            let pending = |answer| PendingAnswer { arrived, answer: PendingState::Limiter(answer), identity: None };
            return answers.into_iter().map(pending).collect();
        }
        let resolved = requests.iter_mut().map(|request| {
            let terms = self.limiter.identity(request.domain());
            self.resolve(terms, request, timeout)
        });
        let resolved = join_all(resolved).await;
        let identified = || requests.iter().zip(&resolved).filter(|(_, resolved)| resolved.is_ok()).map(|(r, _)| r);
        let begun = self.clock.now();
        let identified: Vec<&CheckRequest> = identified().collect();
        let answers = with_checks(identified.iter().copied(), |checks| self.limiter.check_all(checks, begun, timeout));
        let mut answers = answers.into_iter();
        let pending = |resolved: Result<Option<IdentityProblem>, Result<Decision, Rejection>>| {
            let (answer, identity) = match resolved {
                Ok(identity) => {
                    let answer = answers.next().unwrap_or(Answer::Now(Err(Unavailable::Restarted)));
                    (PendingState::Limiter(answer), identity)
                }
                Err(decided) => (PendingState::Decided(decided), None),
            };
            PendingAnswer { arrived, answer, identity }
        };
        resolved.into_iter().map(pending).collect()
    }

    /// Waits for the decision of a check that was begun.
    pub async fn finish(
        &self,
        request: &CheckRequest,
        pending: PendingAnswer,
        id: &RequestId<'_>,
    ) -> Result<Decision, Rejection> {
        let PendingAnswer { arrived, answer, identity } = pending;
        match answer {
            PendingState::Limiter(answer) => {
                let outcome = answer.get().await;
                self.observe(request, outcome.map(|decision| Decision { identity, ..decision }), arrived, id)
            }
            PendingState::Decided(decided) => self.finish_decided(request, decided, arrived, id),
        }
    }

    /// Adds what an API key says to the attributes. A problem that does not deny the check is shown in its answer.
    ///
    /// # Errors
    /// The outcome of a check that is decided by its identity alone.
    async fn resolve(
        &self,
        terms: IdentityTerms,
        request: &mut CheckRequest,
        timeout: Option<Duration>,
    ) -> Result<Option<IdentityProblem>, Result<Decision, Rejection>> {
        let domain = request.domain().to_owned();
        let identified = identify(&*self.identities, terms, request);
        let timeout = timeout.map_or(MAX_IDENTIFICATION, |timeout| timeout.min(MAX_IDENTIFICATION));
        let Ok(identified) = tokio::time::timeout(timeout, identified).await else {
            if terms.on_failure == OnIdentityFailure::Allow {
                forget_keys(request);
                return Ok(Some(IdentityProblem::Unavailable));
            }
            return Err(Ok(self.limiter.denied(&domain, IdentityProblem::Unavailable)));
        };
        match identified {
            Identification::Proceed(problem) => Ok(problem),
            Identification::Denied(problem) => Err(Ok(self.limiter.denied(request.domain(), problem))),
            Identification::Conflict(at, name) => {
                let expected = format!("descriptor {at}: expected no {name} beside api_key: the key sets it");
                Err(Err(Rejection::Invalid(vec![violation(name, expected)])))
            }
        }
    }

    /// Counts and logs a check that was decided by its identity alone.
    fn finish_decided(
        &self,
        request: &CheckRequest,
        decided: Result<Decision, Rejection>,
        arrived: NodeTime,
        id: &RequestId<'_>,
    ) -> Result<Decision, Rejection> {
        match decided {
            Ok(decision) => self.observe(request, Ok(decision), arrived, id),
            Err(rejection) => Err(self.reject(rejection, id)),
        }
    }

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
