//! The checks in native messages: many may come in one message, each with an id and an answer of its own.

use std::time::Duration;

use limiter::{Charging, Decision, millis_up};
use proto::tidegate::v1::{self as wire, CheckResponse, Error, LimitStatus};

use crate::api::attributes::{CheckRequest, DescriptorRequest, Field};
use crate::api::check_service::{CheckService, PendingAnswer, Rest};
use crate::api::headers;
use crate::api::rejection::{FieldViolation, Rejection, violation};
use crate::api::request_id::{self, RequestId, RequestIds};

/// At least the memory of an answer without its limits, in bytes: the task that made it, its ids, the text of an error.
const CHECK_BYTES: usize = 1024;
/// At least the memory of a limit in an answer, in bytes.
const LIMIT_BYTES: usize = 256;

/// A check as it came in a message.
pub struct CheckMessage {
    /// The id that the message names; empty if it names none.
    pub id: String,
    pub check: Result<CheckRequest, Vec<FieldViolation>>,
}

/// Reads a message.
pub fn read(message: wire::CheckRequest) -> CheckMessage {
    let wire::CheckRequest { domain, attributes, descriptors, hits, request_id: id, overdraft } = message;
    let mut violations = Vec::new();
    if !id.is_empty() && !request_id::is_valid(&id) {
        violations.push(violation("request_id", "expected at most 128 visible ASCII characters"));
    }
    if !attributes.is_empty() && !descriptors.is_empty() {
        violations.push(violation("descriptors", "expected either attributes or descriptors, not both"));
    }
    let hits = hits.unwrap_or(1);
    let one = descriptors.is_empty();
    let maps = one.then_some(attributes).into_iter().chain(descriptors.into_iter().map(|d| d.attributes));
    let charging = if overdraft { Charging::Always } else { Charging::IfAllowed };
    let read = |map| DescriptorRequest { charging, ..DescriptorRequest::unordered(map, hits) };
    let descriptors = maps.map(read).collect();
    let place = |at: usize| if one { "attributes".to_owned() } else { format!("descriptors[{at}].attributes") };
    let check = CheckRequest::new(domain, descriptors, violations, |field| match field {
        Field::Domain => "domain".to_owned(),
        Field::Descriptors => "descriptors".to_owned(),
        Field::Attributes(at) | Field::Name(at, ..) => place(at),
        Field::Value(at, _, name) => format!("{}[{name:?}]", place(at)),
    });
    CheckMessage { id, check }
}

/// About the memory that a message takes, in bytes.
pub fn message_bytes(message: &wire::CheckRequest) -> usize {
    let maps = std::iter::once(&message.attributes).chain(message.descriptors.iter().map(|d| &d.attributes));
    let texts = maps.flatten().map(|(name, value)| size_of::<(String, String)>() + name.len() + value.len());
    let texts = texts.sum::<usize>() + message.domain.len() + message.request_id.len();
    size_of::<wire::CheckRequest>() + message.descriptors.len() * size_of::<wire::Descriptor>() + texts
}

/// About the memory that an answer takes, in bytes.
pub fn answer_bytes(answer: &CheckResponse) -> usize {
    let texts = answer.request_id.len() + answer.error.as_ref().map_or(0, |error| error.message.len());
    CHECK_BYTES + answer.limits.len() * LIMIT_BYTES + texts
}

/// Returns the message of a decision. Its field `refused` says that a limit denied.
pub(super) fn to_check_response(decision: &Decision, id: &RequestId<'_>) -> CheckResponse {
    let limits = decision.limits.iter().map(|limit| LimitStatus {
        name: limit.effective.name.to_string(),
        descriptor: u32::try_from(limit.descriptor).unwrap_or(u32::MAX),
        algorithm: limit.effective.algorithm.as_str().to_owned(),
        limit: limit.limit(),
        remaining: limit.remaining,
        window_ms: limit.window_ms(),
        reset_ms: millis_up(limit.reset),
        refused: limit.denied,
        shadow: limit.shadow,
    });
    CheckResponse {
        allowed: decision.allowed,
        degraded: decision.degraded,
        partitioned: decision.partitioned,
        revision: decision.revision.0,
        request_id: id.to_text(),
        retry_after_ms: decision.retry_after.map(millis_up),
        limits: limits.collect(),
        error: None,
        reason: headers::reason(decision).unwrap_or_default().to_owned(),
    }
}

/// The id of a check: its own, else the call's, else a new one.
pub fn id_of<'a>(ids: &RequestIds, own: &'a str, call: Option<&'a str>) -> RequestId<'a> {
    ids.take(Some(own).filter(|id| !id.is_empty()).or(call))
}

/// A check of a message whose decision has begun, or that is invalid.
pub struct StartedCheck {
    id: String,
    state: State,
}

enum State {
    Invalid(Vec<FieldViolation>),
    Pending(CheckRequest, PendingAnswer),
}

/// Begins the checks of a message, all at once, in order. `rest` says what happens if they are too much work.
pub fn begin(
    service: &CheckService,
    messages: impl Iterator<Item = CheckMessage>,
    timeout: Option<Duration>,
    rest: Rest,
) -> Vec<StartedCheck> {
    let (mut valid, mut all) = (Vec::new(), Vec::new());
    for CheckMessage { id, check } in messages {
        let violations = check.map(|check| valid.push(check)).err();
        all.push((id, violations));
    }
    let pending = service.begin(&mut valid, timeout, rest);
    let mut pending = valid.into_iter().zip(pending);
    let begun = all.into_iter().filter_map(|(id, violations)| {
        let state = match violations {
            Some(violations) => State::Invalid(violations),
            None => pending.next().map(|(check, answer)| State::Pending(check, answer))?,
        };
        Some(StartedCheck { id, state })
    });
    begun.collect()
}

impl StartedCheck {
    /// True if the check waits: see [`PendingAnswer::waits`].
    pub fn waits(&self) -> bool {
        matches!(&self.state, State::Pending(_, answer) if answer.waits())
    }

    /// True if the limits that apply were asked, or need not be.
    pub const fn is_asked(&self) -> bool {
        !matches!(&self.state, State::Pending(_, answer) if !answer.is_asked())
    }

    /// The steps of the check, if it waits for the store.
    pub const fn work(&self) -> usize {
        if let State::Pending(_, answer) = &self.state { answer.work() } else { 0 }
    }

    /// About the memory that a check takes that waits, in bytes. Its answer takes no more, unless its limits are asked
    /// later.
    pub fn bytes(&self) -> usize {
        let State::Pending(check, answer) = &self.state else { return CHECK_BYTES + self.id.len() };
        self.id.len() + answer.bytes().unwrap_or_else(|| CHECK_BYTES + check.bytes())
    }

    /// Waits until the API keys of the check are known.
    pub async fn wait_for_keys(&mut self) {
        if let State::Pending(_, answer) = &mut self.state {
            answer.wait_for_keys().await;
        }
    }

    /// Asks the limits that apply, if they were not asked before.
    pub fn ask(self, service: &CheckService) -> Self {
        let state = match self.state {
            State::Pending(mut check, answer) => {
                let answer = service.ask(&mut check, answer);
                State::Pending(check, answer)
            }
            state @ State::Invalid(_) => state,
        };
        Self { state, ..self }
    }

    /// The answer. An error is an answer as well. It has the id of the message, even if that is what is invalid.
    pub async fn answer(self, service: &CheckService, call: Option<&str>) -> CheckResponse {
        let id = id_of(&service.ids, &self.id, call);
        let outcome = match self.state {
            State::Invalid(violations) => Err(service.reject(Rejection::Invalid(violations), &id)),
            State::Pending(check, answer) => service.finish(check, answer, &id).await,
        };
        match outcome {
            Ok(decision) => to_check_response(&decision, &id),
            Err(rejection) => {
                let (code, message) = rejection.code_and_message();
                let error = Some(Error { code: i32::from(code), message });
                let request_id = if self.id.is_empty() { id.to_text() } else { self.id };
                CheckResponse { request_id, error, ..CheckResponse::default() }
            }
        }
    }
}
