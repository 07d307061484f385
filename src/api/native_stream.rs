//! `CheckStream`: messages are decided as they come, and answered as they are decided, each under its id.
//!
//! Whatever has come is asked together. Nothing more is read while too many checks wait for the store, or while the client
//! does not read what it was answered: HTTP/2's flow control bounds both ends. What was read is decided in time, whether
//! its client reads or not.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered, Stream, StreamExt};
use futures_util::{FutureExt, future};
use tokio::sync::{mpsc, watch};
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::desk::Desk;
use super::native::{Asked, answer, ask};
use super::questions::weight;
use crate::ports::{Answer, BoxFuture};
use proto::tidegate::v1::{CheckRequest, CheckResponse};

/// Descriptors that are asked together, and answered ahead of a client, or a few more.
const TOGETHER: usize = 256;
/// While checks of so many descriptors of one stream wait for the store no more are read.
const MAX_WAITING: usize = 10_000;
/// A stream reads nothing more after so long, as connections end after some time: few long ones spread over cores and nodes.
const MAX_AGE: Duration = Duration::from_secs(300);

/// What a stream answers.
pub type Answers = Pin<Box<dyn Stream<Item = Result<CheckResponse, Status>> + Send>>;

/// Answers what comes in until the client says no more, or the node ends.
pub fn answers(desk: Arc<Desk>, questions: Streaming<CheckRequest>, ending: watch::Receiver<()>) -> Answers {
    let (sender, received) = mpsc::channel(1);
    let conversation = Conversation {
        desk,
        questions: Some(questions),
        ending,
        age: Box::pin(sleep(MAX_AGE)),
        waiting: FuturesUnordered::new(),
        waiting_for: 0,
        answers: Vec::new(),
    };
    #[expect(
        clippy::disallowed_methods,
        reason = "it ends with its stream: the client's end of the answers is gone then"
    )]
    tokio::spawn(conversation.go_on(sender));
    Box::pin(ReceiverStream::new(received).flat_map(stream::iter))
}

type Said = Vec<Result<CheckResponse, Status>>;

struct Conversation {
    desk: Arc<Desk>,
    /// `None` once nothing more is read.
    questions: Option<Streaming<CheckRequest>>,
    ending: watch::Receiver<()>,
    age: Pin<Box<Sleep>>,
    /// Each with how many descriptors it has.
    waiting: FuturesUnordered<BoxFuture<'static, (CheckResponse, usize)>>,
    /// Descriptors of those.
    waiting_for: usize,
    answers: Said,
}

impl Conversation {
    async fn go_on(mut self, sender: mpsc::Sender<Said>) {
        // What came was no check: said last.
        let mut broken = None;
        loop {
            let (answered, waits) = (!self.answers.is_empty(), !self.waiting.is_empty());
            if self.questions.is_none() && !answered && !waits {
                break;
            }
            // What was said before is not fetched yet.
            let unread = sender.capacity() == 0;
            let reads = self.questions.is_some() && !unread && !answered && self.waiting_for < MAX_WAITING;
            tokio::select! {
                permit = sender.reserve(), if answered || unread => match permit {
                    Ok(permit) if answered => permit.send(std::mem::take(&mut self.answers)),
                    Ok(_) => {}
                    Err(_) => return,
                },
                () = sender.closed() => return,
                Some((answer, weight)) = self.waiting.next(), if waits => {
                    self.waiting_for -= weight;
                    self.answers.push(Ok(answer));
                }
                question = next_of(&mut self.questions), if reads => broken = self.take(question),
                _ = self.ending.changed(), if self.questions.is_some() => self.questions = None,
                () = self.age.as_mut(), if self.questions.is_some() => self.questions = None,
            }
        }
        if let Some(status) = broken {
            let _ = sender.send(vec![Err(status)]).await;
        }
    }

    /// Takes a message and those that have come behind it; returns why nothing more is read, if that is an error.
    fn take(&mut self, mut question: Option<Result<CheckRequest, Status>>) -> Option<Status> {
        let (mut checks, mut all, mut broken) = (Vec::new(), 0, None);
        loop {
            match question {
                Some(Ok(check)) => {
                    all += weight(&check);
                    checks.push(check);
                }
                // What came before it is answered still.
                Some(Err(status)) => (self.questions, broken) = (None, Some(status)),
                None => self.questions = None,
            }
            if all >= TOGETHER || self.questions.is_none() {
                break;
            }
            let Some(next) = next_of(&mut self.questions).now_or_never() else { break };
            question = next;
        }
        for (asked, check) in ask(&self.desk, &checks, None).into_iter().zip(checks) {
            let desk = Arc::clone(&self.desk);
            let weight = weight(&check);
            let waits = matches!(asked, Asked::Begun(_, Answer::Later(_)));
            let one = async move { (answer(&desk, asked, &check, None).await, weight) };
            if waits {
                self.waiting_for += weight;
                self.waiting.push(Box::pin(one));
            } else if let Some((answer, _)) = one.now_or_never() {
                self.answers.push(Ok(answer));
            }
        }
        broken
    }
}

async fn next_of<S: Stream + Unpin>(stream: &mut Option<S>) -> Option<S::Item> {
    match stream {
        Some(stream) => stream.next().await,
        None => future::pending().await,
    }
}
