//! Reads what a node answered.

use http::{HeaderMap, StatusCode};
use serde::Deserialize;

use crate::decision::Answer;
use crate::nodes::Reply;
use crate::{Decision, FieldError};

/// A node does not take a check: 400, 401 without a decision, 403, 413 and so on. The fail mode never applies.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the node rejected the check with {status}: {title}{}", text(.errors))]
pub struct Rejected {
    pub status: StatusCode,
    pub title: String,
    pub errors: Vec<FieldError>,
}

/// Why there is no decision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CheckError {
    #[error(transparent)]
    Rejected(Rejected),
    /// The answer is not that of a node.
    #[error("{url}: expected the answer of a node, not {status}")]
    NoNode { url: String, status: StatusCode },
}

fn text(errors: &[FieldError]) -> String {
    errors.iter().map(|error| format!("; {}: {}", error.pointer, error.detail)).collect()
}

#[derive(Deserialize, Default)]
struct Problem {
    #[serde(default)]
    title: String,
    #[serde(default)]
    errors: Vec<FieldError>,
}

/// The answer to a batch.
#[derive(Deserialize)]
struct Answers {
    results: Vec<BatchResult>,
}

/// The answer to one check of a batch.
#[derive(Deserialize)]
#[serde(untagged)]
enum BatchResult {
    Decided(Answer),
    Failed { error: CheckProblem },
}

#[derive(Deserialize)]
struct CheckProblem {
    status: u16,
    #[serde(flatten)]
    problem: Problem,
}

impl Problem {
    fn rejected(self, status: StatusCode) -> Rejected {
        Rejected { status, title: self.title, errors: self.errors }
    }
}

impl Reply {
    /// Reads the answer to one check.
    pub(crate) fn decision(self) -> Result<Decision, CheckError> {
        if matches!(self.status, StatusCode::OK | StatusCode::TOO_MANY_REQUESTS | StatusCode::UNAUTHORIZED)
            && let Ok(answer) = serde_json::from_slice::<Answer>(&self.body)
            // Only a status of 200 allows.
            && answer.allowed == (self.status == StatusCode::OK)
        {
            return Ok(answer.decision(self.status, &self.headers));
        }
        if self.status == StatusCode::TOO_MANY_REQUESTS {
            return Ok(Decision::of_status(self.status, &self.headers));
        }
        Err(self.refusal())
    }

    /// Reads the answer to a batch of `count` checks. A check that the node could not decide is left to `fail_mode`.
    pub(crate) fn decisions(
        self,
        count: usize,
        fail_mode: impl Fn(String) -> Decision,
    ) -> Result<Vec<Result<Decision, Rejected>>, CheckError> {
        let results = match serde_json::from_slice(&self.body) {
            Ok(Answers { results }) if self.status == StatusCode::OK && results.len() == count => results,
            _ => return Err(self.refusal()),
        };
        let read = |result| match result {
            BatchResult::Decided(answer) => {
                let status = answer.status();
                Ok(Ok(answer.decision(status, &HeaderMap::new())))
            }
            BatchResult::Failed { error: CheckProblem { status, problem } } => match StatusCode::from_u16(status) {
                Ok(status) if status.is_client_error() => Ok(Err(problem.rejected(status))),
                Ok(status) if status.is_server_error() => {
                    Ok(Ok(fail_mode(format!("no node answered: {}: {status}", self.url))))
                }
                _ => Err(self.refusal()),
            },
        };
        results.into_iter().map(read).collect()
    }

    /// The error of an answer that decides nothing.
    fn refusal(&self) -> CheckError {
        if !self.status.is_client_error() {
            return CheckError::NoNode { url: self.url.clone(), status: self.status };
        }
        let problem: Problem = serde_json::from_slice(&self.body).unwrap_or_default();
        CheckError::Rejected(problem.rejected(self.status))
    }
}
