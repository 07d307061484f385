//! `CheckStream`: messages are decided as they come, and answered as they are decided, each under its id.
//!
//! Whatever has come is asked together. Nothing more is read while too many checks wait for the store, and nothing is
//! decided ahead of a client that does not read: HTTP/2's flow control bounds both ends.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::stream::{FuturesUnordered, ReadyChunks, Stream, StreamExt, unfold};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep};
use tonic::{Status, Streaming};

use super::desk::Desk;
use super::native::{Asked, ask, id_of, outcome, response_or_error};
use super::proto::tidegate::v1::{CheckRequest, CheckResponse};
use crate::ports::{Answer, BoxFuture};

/// Messages that are asked together at most.
const TOGETHER: usize = 256;
/// Checks of one stream that wait for the store at most: no more are read meanwhile.
const MAX_WAITING: usize = 1000;
/// A stream reads nothing more after so long, as connections end after some time: few long ones spread over cores and nodes.
const MAX_AGE: Duration = Duration::from_secs(300);

/// What a stream answers.
pub type Answers = Pin<Box<dyn Stream<Item = Result<CheckResponse, Status>> + Send>>;

/// Answers what comes in until the client says no more, or the node ends.
pub fn answers(desk: Arc<Desk>, questions: Streaming<CheckRequest>, ending: watch::Receiver<()>) -> Answers {
    let conversation = Conversation {
        desk,
        questions: Some(questions.ready_chunks(TOGETHER)),
        ending,
        age: Box::pin(sleep(MAX_AGE)),
        waiting: FuturesUnordered::new(),
        answers: VecDeque::new(),
        broken: None,
    };
    Box::pin(unfold(conversation, Conversation::next))
}

struct Conversation {
    desk: Arc<Desk>,
    /// `None` once nothing more is read.
    questions: Option<ReadyChunks<Streaming<CheckRequest>>>,
    ending: watch::Receiver<()>,
    age: Pin<Box<Sleep>>,
    waiting: FuturesUnordered<BoxFuture<'static, CheckResponse>>,
    answers: VecDeque<CheckResponse>,
    /// What came was no check: said last.
    broken: Option<Status>,
}

impl Conversation {
    async fn next(mut self) -> Option<(Result<CheckResponse, Status>, Self)> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Some((Ok(answer), self));
            }
            let reads = self.questions.is_some() && self.waiting.len() < MAX_WAITING;
            tokio::select! {
                Some(answer) = self.waiting.next(), if !self.waiting.is_empty() => self.answers.push_back(answer),
                questions = next_of(&mut self.questions), if reads => match questions {
                    Some(questions) => self.take(questions),
                    None => self.questions = None,
                },
                _ = self.ending.changed(), if self.questions.is_some() => self.questions = None,
                () = self.age.as_mut(), if self.questions.is_some() => self.questions = None,
                else => return self.broken.take().map(|status| (Err(status), self)),
            }
        }
    }

    fn take(&mut self, questions: Vec<Result<CheckRequest, Status>>) {
        let mut checks = Vec::with_capacity(questions.len());
        for question in questions {
            match question {
                Ok(check) => checks.push(check),
                Err(status) => {
                    // What came before it is answered still.
                    (self.questions, self.broken) = (None, Some(status));
                    break;
                }
            }
        }
        let asked = ask(&self.desk, &checks, None);
        for (asked, check) in asked.into_iter().zip(checks) {
            let desk = Arc::clone(&self.desk);
            let waits = matches!(asked, Asked::Begun(_, Answer::Later(_)));
            let answer = async move {
                let id = id_of(&desk.ids, &check, None);
                response_or_error(outcome(&desk, asked, &id).await, &id)
            };
            if waits {
                self.waiting.push(Box::pin(answer));
            } else if let Some(answer) = answer.now_or_never() {
                self.answers.push_back(answer);
            }
        }
    }
}

async fn next_of<S: Stream + Unpin>(stream: &mut Option<S>) -> Option<S::Item> {
    match stream {
        Some(stream) => stream.next().await,
        None => None,
    }
}
