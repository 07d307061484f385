//! `CheckStream`: checks are decided as they arrive and answered as they are decided, each under its id.
//!
//! All messages that have arrived are decided together. The stream reads no more while too many checks wait for the
//! store, or while the client does not read its answers: the flow control of HTTP/2 bounds both ends. A check that was
//! read is decided in time, even if its client does not read.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered, Stream, StreamExt};
use futures_util::{FutureExt, future};
use tokio::sync::{mpsc, watch};
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::messages;
use crate::api::check_service::{CheckService, Rest};
use crate::ports::BoxFuture;
use proto::tidegate::v1::{CheckRequest, CheckResponse};

/// A soft maximum of the descriptors that are decided together, and of those that are answered ahead of a client: the
/// last check may exceed it.
const MAX_TOGETHER: usize = 256;
/// The stream reads no more while its checks with this many descriptors wait for the store.
const MAX_WAITING: usize = 10_000;
/// The age at which a stream stops reading, as connections end, so that few long ones spread over cores and nodes.
const MAX_AGE: Duration = Duration::from_secs(300);

/// The answers of a stream.
pub type Answers = Pin<Box<dyn Stream<Item = Result<CheckResponse, Status>> + Send>>;

/// Answers the checks of a stream until its client ends it, or the node does.
pub fn answers(service: Arc<CheckService>, requests: Streaming<CheckRequest>, ending: watch::Receiver<()>) -> Answers {
    let (sender, received) = mpsc::channel(1);
    let session = StreamSession {
        service,
        requests: Some(requests),
        ending,
        age: Box::pin(sleep(MAX_AGE)),
        waiting: FuturesUnordered::new(),
        waiting_weight: 0,
        answers: Vec::new(),
    };
    #[expect(clippy::disallowed_methods, reason = "it ends with its stream, when the receiver of the answers is gone")]
    tokio::spawn(session.run(sender));
    Box::pin(ReceiverStream::new(received).flat_map(stream::iter))
}

type AnswerList = Vec<Result<CheckResponse, Status>>;

struct StreamSession {
    service: Arc<CheckService>,
    /// `None` once the stream reads no more.
    requests: Option<Streaming<CheckRequest>>,
    ending: watch::Receiver<()>,
    age: Pin<Box<Sleep>>,
    /// Checks that wait, for the store for example, each with the number of its descriptors.
    waiting: FuturesUnordered<BoxFuture<'static, (CheckResponse, usize)>>,
    /// The descriptors of those checks.
    waiting_weight: usize,
    answers: AnswerList,
}

impl StreamSession {
    async fn run(mut self, sender: mpsc::Sender<AnswerList>) {
        // The error of a message that cannot be decoded. It is sent last.
        let mut broken = None;
        loop {
            let (answered, waits) = (!self.answers.is_empty(), !self.waiting.is_empty());
            if self.requests.is_none() && !answered && !waits {
                break;
            }
            // The client has not read the answers before.
            let unread = sender.capacity() == 0;
            let reads = self.requests.is_some() && !unread && !answered && self.waiting_weight < MAX_WAITING;
            tokio::select! {
                permit = sender.reserve(), if answered || unread => match permit {
                    Ok(permit) if answered => permit.send(std::mem::take(&mut self.answers)),
                    Ok(_) => {}
                    Err(_) => return,
                },
                () = sender.closed() => return,
                Some((answer, weight)) = self.waiting.next(), if waits => {
                    self.waiting_weight -= weight;
                    self.answers.push(Ok(answer));
                }
                request = next_of(&mut self.requests), if reads => broken = self.take(request).await,
                _ = self.ending.changed(), if self.requests.is_some() => self.requests = None,
                () = self.age.as_mut(), if self.requests.is_some() => self.requests = None,
            }
        }
        if let Some(status) = broken {
            let _ = sender.send(vec![Err(status)]).await;
        }
    }

    /// Begins the checks of a message and of those that have arrived after it. Returns the error that ends the stream,
    /// if any.
    async fn take(&mut self, mut request: Option<Result<CheckRequest, Status>>) -> Option<Status> {
        let (mut checks, mut all, mut broken) = (Vec::new(), 0, None);
        loop {
            match request {
                Some(Ok(check)) => {
                    all += weight(&check);
                    checks.push(check);
                }
                // The checks before it are answered.
                Some(Err(status)) => {
                    self.service.unreadable(&status);
                    (self.requests, broken) = (None, Some(status));
                }
                None => self.requests = None,
            }
            if all >= MAX_TOGETHER || self.requests.is_none() {
                break;
            }
            let Some(next) = next_of(&mut self.requests).now_or_never() else { break };
            request = next;
        }
        let weights: Vec<usize> = checks.iter().map(weight).collect();
        let begun = messages::begin(&self.service, checks.into_iter().map(messages::read), None, Rest::Later);
        for (begun, weight) in begun.into_iter().zip(weights) {
            let service = Arc::clone(&self.service);
            let waits = begun.waits();
            let one = async move { (begun.answer(&service, None).await, weight) };
            if waits {
                self.waiting_weight += weight;
                self.waiting.push(Box::pin(one));
            } else {
                self.answers.push(Ok(one.await.0));
            }
        }
        broken
    }
}

/// How much work a check is.
fn weight(check: &CheckRequest) -> usize {
    check.descriptors.len().max(1)
}

async fn next_of<S: Stream + Unpin>(stream: &mut Option<S>) -> Option<S::Item> {
    match stream {
        Some(stream) => stream.next().await,
        None => future::pending().await,
    }
}
