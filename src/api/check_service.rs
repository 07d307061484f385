//! The one service behind every front end: it resolves the identity of a check, decides it, and observes the outcome.

use std::sync::Arc;
use std::time::Duration;

use limiter::{Decision, IdentityProblem, NodeTime};
use tonic::{Code, Status};

use super::attributes::{CheckRequest, with_checks};
use super::batches::BatchGate;
use super::identity::{AskedKeys, Identification, ask};
use super::rejection::{Rejection, violation};
use super::request_id::{RequestId, RequestIds};
use super::waiting_room::WaitingRoom;
use crate::ports::identity::Identities;
use crate::ports::{Answer, Clock, Limiter, Unavailable, Wait};
use crate::telemetry::checks::CheckMetrics;
use crate::telemetry::tally::Tally;

/// The memory of the checks of one core that wait for their API keys. Those of streams take memory of their own.
const MAX_WAITING_FOR_KEYS: usize = 16 * 1024 * 1024;

/// Returns room for the checks of a core that wait for their API keys.
pub const fn room_for_keys() -> WaitingRoom {
    WaitingRoom::new(MAX_WAITING_FOR_KEYS)
}

/// The check service of one core.
pub struct CheckService {
    pub limiter: Arc<dyn Limiter>,
    pub clock: Arc<dyn Clock>,
    pub metrics: Arc<CheckMetrics>,
    pub tally: Arc<Tally>,
    pub ids: RequestIds,
    pub identities: Arc<dyn Identities>,
    pub batches: BatchGate,
    pub waiting_for_keys: WaitingRoom,
}

/// A check that was begun.
pub struct PendingAnswer {
    arrived: NodeTime,
    state: PendingState,
    identity: Option<IdentityProblem>,
}

/// What a check that was begun waits for.
enum PendingState {
    Limiter(Answer),
    /// Look-ups of its API keys. The whole check may take this long from its arrival on.
    Keys(AskedKeys, Wait),
    /// The check is decided without the limiter.
    Decided(Result<Decision, Rejection>),
    /// The limiter has not been asked yet: the checks before it were too much work at once. It may take this long from
    /// its arrival on.
    NotBegun(Wait),
}

/// What happens to the checks that are left when those before them were too much work at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rest {
    /// They are one request: the rest is rejected.
    Rejected,
    /// They are requests of their own: each of the rest is decided later.
    Later,
}

impl PendingAnswer {
    /// True if the check waits: for the store, for its identity, or for checks before it.
    pub const fn waits(&self) -> bool {
        matches!(
            self.state,
            PendingState::Limiter(Answer::Later { .. }) | PendingState::Keys(..) | PendingState::NotBegun(_)
        )
    }

    /// True if the limiter was asked, or need not be.
    pub const fn is_asked(&self) -> bool {
        !matches!(self.state, PendingState::Keys(..) | PendingState::NotBegun(_))
    }

    /// The steps of the check, if it waits for the store.
    pub const fn work(&self) -> usize {
        if let PendingState::Limiter(Answer::Later { work, .. }) = self.state { work } else { 0 }
    }

    /// About the memory that the check takes until its decision, in bytes; `None` if it does not wait for the store.
    pub const fn bytes(&self) -> Option<usize> {
        if let PendingState::Limiter(Answer::Later { bytes, .. }) = self.state { Some(bytes) } else { None }
    }

    /// Waits until the API keys of the check are known.
    pub async fn wait_for_keys(&mut self) {
        if let PendingState::Keys(keys, _) = &mut self.state {
            keys.wait().await;
        }
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
        let (arrived, wait) = (self.clock.now(), self.wait(timeout));
        let mut pending = self.resolve(&mut request, arrived, arrived, wait);
        if let PendingState::Limiter(answer) = &mut pending.state {
            *answer = self.decide(&request, arrived, wait);
        }
        match self.outcome(&request, pending, id) {
            Ok(outcome) => outcome,
            // In a box, because it is rare and large: the future of every check would be as large.
            Err(waits) => Box::pin(self.finish(request, waits, id)).await,
        }
    }

    /// Begins to decide many checks at once, in order. [`Self::finish`] has the decision of each. A check whose API key
    /// is looked up delays no other. `rest` says what happens if they are too much work.
    pub fn begin(&self, requests: &mut [CheckRequest], timeout: Option<Duration>, rest: Rest) -> Vec<PendingAnswer> {
        let (arrived, wait) = (self.clock.now(), self.wait(timeout));
        let mut pending: Vec<PendingAnswer> =
            requests.iter_mut().map(|request| self.resolve(request, arrived, arrived, wait)).collect();
        let is_identified = |pending: &PendingAnswer| matches!(pending.state, PendingState::Limiter(_));
        let identified = requests.iter().zip(&pending).filter(|(_, pending)| is_identified(pending)).map(|(r, _)| r);
        let answers = with_checks(identified, |checks| self.limiter.check_all(checks, arrived, wait));
        let mut answers = answers.into_iter();
        for pending in pending.iter_mut().filter(|pending| is_identified(pending)) {
            pending.state = match (answers.next(), rest) {
                (Some(answer), _) => PendingState::Limiter(answer),
                (None, Rest::Rejected) => PendingState::Decided(Err(Rejection::BatchTooMuchWork)),
                (None, Rest::Later) => PendingState::NotBegun(wait),
            };
        }
        pending
    }

    /// Waits for the decision of a check that was begun.
    pub async fn finish(
        &self,
        mut request: CheckRequest,
        mut pending: PendingAnswer,
        id: &RequestId<'_>,
    ) -> Result<Decision, Rejection> {
        loop {
            pending = match self.outcome(&request, pending, id) {
                Ok(outcome) => return outcome,
                Err(PendingAnswer { state: PendingState::Limiter(answer), arrived, identity }) => {
                    let state = PendingState::Limiter(Answer::Now(answer.get().await));
                    PendingAnswer { arrived, state, identity }
                }
                Err(mut unasked) => {
                    // Without room, what is known of a key from longer ago counts.
                    if let Some(_waits) = self.waiting_for_keys.enter(request.bytes()) {
                        unasked.wait_for_keys().await;
                    }
                    self.ask(&mut request, unasked)
                }
            };
        }
    }

    /// Counts the outcome of a check and returns it, or returns the check if it has to wait.
    fn outcome(
        &self,
        request: &CheckRequest,
        pending: PendingAnswer,
        id: &RequestId<'_>,
    ) -> Result<Result<Decision, Rejection>, PendingAnswer> {
        let PendingAnswer { arrived, state, identity } = pending;
        match state {
            PendingState::Limiter(Answer::Now(outcome)) => {
                Ok(self.observe(request, outcome.map(|decision| Decision { identity, ..decision }), arrived, id))
            }
            PendingState::Decided(Ok(decision)) => Ok(self.observe(request, Ok(decision), arrived, id)),
            PendingState::Decided(Err(rejection)) => Ok(Err(self.reject(rejection, id))),
            state => Err(PendingAnswer { arrived, state, identity }),
        }
    }

    /// Asks the limiter about a check if it was not asked before. Of a key that was not waited for, what is known from
    /// longer ago counts.
    pub fn ask(&self, request: &mut CheckRequest, pending: PendingAnswer) -> PendingAnswer {
        let PendingAnswer { arrived, state, identity } = pending;
        match state {
            PendingState::Keys(keys, wait) => self.go_on(request, keys, arrived, wait),
            PendingState::NotBegun(wait) => {
                let now = self.clock.now();
                let answer = self.decide(request, now, left(wait, arrived, now));
                PendingAnswer { arrived, state: PendingState::Limiter(answer), identity }
            }
            state => PendingAnswer { arrived, state, identity },
        }
    }

    /// Goes on with a check whose keys were waited for.
    fn go_on(&self, request: &mut CheckRequest, keys: AskedKeys, arrived: NodeTime, wait: Wait) -> PendingAnswer {
        let now = self.clock.now();
        // The rules may have changed meanwhile. One revision decides the check.
        let mut pending = if keys.terms == self.limiter.identity(request.domain()) {
            self.identified(keys.identify(request), request, arrived)
        } else {
            self.resolve(request, arrived, now, wait)
        };
        if let PendingState::Limiter(answer) = &mut pending.state {
            *answer = self.decide(request, now, left(wait, arrived, now));
        }
        pending
    }

    /// How long a check waits whose caller waits for `timeout`.
    fn wait(&self, timeout: Option<Duration>) -> Wait {
        Wait::of_caller(timeout, self.limiter.deadline())
    }

    /// Asks the limiter about a check whose identity is known.
    fn decide(&self, request: &CheckRequest, now: NodeTime, wait: Wait) -> Answer {
        let answer = with_checks(std::iter::once(request), |checks| {
            checks.first().map(|check| self.limiter.check(check, now, wait))
        });
        answer.unwrap_or(Answer::Now(Err(Unavailable::Restarted)))
    }

    /// Adds what an API key says to the attributes, or begins to look the key up. The limiter has not been asked yet.
    fn resolve(&self, request: &mut CheckRequest, arrived: NodeTime, now: NodeTime, wait: Wait) -> PendingAnswer {
        let terms = self.limiter.identity(request.domain());
        let identification =
            match ask(&*self.identities, terms, request, left(wait, arrived, now).time.unwrap_or_default()) {
                Ok(keys) if keys.are_known() => keys.identify(request),
                Ok(keys) => return PendingAnswer { arrived, state: PendingState::Keys(keys, wait), identity: None },
                Err(identification) => identification,
            };
        self.identified(identification, request, arrived)
    }

    /// Goes on with a check after its identity. A problem that does not deny the check is shown in its answer.
    fn identified(&self, found: Identification, request: &CheckRequest, arrived: NodeTime) -> PendingAnswer {
        let (state, identity) = match found {
            Identification::Proceed(problem) => {
                (PendingState::Limiter(Answer::Now(Err(Unavailable::Restarted))), problem)
            }
            Identification::Denied(problem) => {
                (PendingState::Decided(Ok(self.limiter.denied(request.domain(), problem))), None)
            }
            Identification::Conflict(at, name) => {
                let expected = format!("descriptor {at}: expected no {name} beside api_key: the key sets it");
                (PendingState::Decided(Err(Rejection::Invalid(vec![violation(name, expected)]))), None)
            }
        };
        PendingAnswer { arrived, state, identity }
    }

    /// Counts and logs the outcome of a check that arrived at `arrived`. Events will begin here.
    fn observe(
        &self,
        request: &CheckRequest,
        outcome: Result<Decision, Unavailable>,
        arrived: NodeTime,
        id: &RequestId<'_>,
    ) -> Result<Decision, Rejection> {
        match outcome {
            // A gateway may let a request pass whose check is an error, and its client may have chosen which limits
            // apply.
            Ok(decision) if decision.too_much_work && !request.is_of_gateway() => {
                Err(self.reject(Rejection::TooMuchWork, id))
            }
            Ok(decision) => {
                if decision.too_much_work {
                    self.warn_of_too_much_work(decision.domain.as_deref());
                }
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

    /// Logs that a gateway's check is denied because it is too much work.
    fn warn_of_too_much_work(&self, domain: Option<&str>) {
        if let Some(more) = self.metrics.invalid_calls_log.admit(self.clock.now()) {
            tracing::warn!(domain, more, "a gateway's check is denied: too many limits may apply to its descriptors");
        }
    }

    /// Counts and logs a call without a valid token. `face` is the front end.
    pub fn warn_of_unauthorized_call(&self, face: &'static str) {
        self.metrics.unauthorized.with_label_values(&[face]).inc();
        if let Some(more) = self.metrics.unauthorized_log.admit(self.clock.now()) {
            tracing::warn!(face, more, "a call has no valid token (auth.tokens_file)");
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

/// What is left at `now` of a wait that began at `arrived`.
fn left(wait: Wait, arrived: NodeTime, now: NodeTime) -> Wait {
    let passed = Duration::from_micros(now.since(arrived));
    Wait { time: wait.time.map(|time| time.saturating_sub(passed)), ..wait }
}

#[cfg(test)]
#[path = "check_service_tests.rs"]
mod tests;
