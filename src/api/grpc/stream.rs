//! `CheckStream`: checks are decided as they arrive and answered as they are decided, each under its id.
//!
//! All messages that have arrived are decided together. The stream reads no more while too many checks wait for the
//! store, or while the client does not read its answers: the flow control of HTTP/2 bounds both ends. A check that was
//! read is decided in time, even if its client does not read.
//!
//! A check that waits, and an answer that is not read, take memory from what their connection may hold of answers.
//! While little of that is left, the stream reads one check at a time. A stream whose checks take more nevertheless
//! ends.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, FuturesUnordered, Stream, StreamExt};
use futures_util::{FutureExt, future};
use limiter::rules::MAX_WORK;
use tokio::sync::{mpsc, watch};
use tokio::task::yield_now;
use tokio::time::{Sleep, sleep};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};

use super::messages::{self, StartedCheck};
use crate::api::check_service::{CheckService, Rest};
use crate::ports::BoxFuture;
use crate::server::budget::Taken;
use crate::server::meter::Meter;
use proto::tidegate::v1::{CheckRequest, CheckResponse};

/// A soft maximum of the descriptors that are decided together, and of those that are answered ahead of a client: the
/// last check may exceed it.
const MAX_TOGETHER: usize = 256;
/// The stream reads no more while its checks with this many descriptors wait for the store.
const MAX_WAITING: usize = 10_000;
/// The bytes that a connection must be able to hold beside what it holds, so that its streams read ahead. Checks that
/// are decided together take less.
const ROOM: usize = 4 * 1024 * 1024;
/// The age at which a stream stops reading, as connections end, so that few long ones spread over cores and nodes.
const MAX_AGE: Duration = Duration::from_secs(300);

/// The answers of a stream.
pub type Answers = Pin<Box<dyn Stream<Item = Result<CheckResponse, Status>> + Send>>;

/// Answers the checks of a stream until its client ends it, or the node does. `meter` is that of its connection.
pub fn answers(
    service: Arc<CheckService>,
    meter: Arc<Meter>,
    requests: Streaming<CheckRequest>,
    ending: watch::Receiver<()>,
) -> Answers {
    let (sender, received) = mpsc::channel(1);
    let session = StreamSession {
        service,
        meter,
        requests: Some(requests),
        broken: None,
        ending,
        age: Box::pin(sleep(MAX_AGE)),
        waiting: FuturesUnordered::new(),
        waiting_weight: 0,
        unasked: VecDeque::new(),
        work: 0,
        answers: AnswerList::default(),
    };
    #[expect(clippy::disallowed_methods, reason = "it ends with its stream, when the receiver of the answers is gone")]
    tokio::spawn(session.run(sender));
    Box::pin(ReceiverStream::new(received).flat_map(AnswerList::into_stream))
}

/// Answers that the client has not read, each with the memory that it takes.
#[derive(Default)]
struct AnswerList(Vec<(Result<CheckResponse, Status>, Option<Taken>)>);

impl AnswerList {
    /// The answers. The memory of each goes back when it is encoded: from then on it takes memory as every answer does.
    fn into_stream(self) -> impl Stream<Item = Result<CheckResponse, Status>> {
        stream::iter(self.0).map(|(answer, _)| answer)
    }
}

/// A check that was waited for, with the memory that it takes.
struct Waited {
    outcome: Outcome,
    weight: usize,
    taken: Taken,
}

enum Outcome {
    Answered(CheckResponse),
    /// Its API keys are known, or it was put off: its limits can be asked.
    Unasked(StartedCheck),
}

struct StreamSession {
    service: Arc<CheckService>,
    meter: Arc<Meter>,
    /// `None` once the stream reads no more.
    requests: Option<Streaming<CheckRequest>>,
    /// The error of a message that cannot be decoded. It is sent last.
    broken: Option<Status>,
    ending: watch::Receiver<()>,
    age: Pin<Box<Sleep>>,
    /// Checks that wait, for the store for example.
    waiting: FuturesUnordered<BoxFuture<'static, Waited>>,
    /// The descriptors of those checks.
    waiting_weight: usize,
    /// Checks whose limits are asked one after the other, each with the number of its descriptors.
    unasked: VecDeque<(StartedCheck, usize, Taken)>,
    /// The steps of the checks that began to wait for the store since the stream let others go on.
    work: usize,
    answers: AnswerList,
}

impl StreamSession {
    async fn run(mut self, sender: mpsc::Sender<AnswerList>) {
        let end = loop {
            let (answered, waits) = (!self.answers.0.is_empty(), !self.waiting.is_empty());
            let unasked = !self.unasked.is_empty();
            if self.requests.is_none() && !answered && !waits && !unasked {
                break self.broken.take();
            }
            // The client has not read the answers before.
            let unread = sender.capacity() == 0;
            let room = self.meter.has_room_for_unsent(ROOM);
            let free = !unread && !answered && !unasked && self.waiting_weight < MAX_WAITING && (room || !waits);
            let reads = self.requests.is_some() && free;
            let fits = tokio::select! {
                permit = sender.reserve(), if answered || unread => match permit {
                    Ok(permit) if answered => {
                        permit.send(std::mem::take(&mut self.answers));
                        Ok(())
                    }
                    Ok(_) => Ok(()),
                    Err(_) => return,
                },
                () = sender.closed() => return,
                Some(waited) = self.waiting.next(), if waits => {
                    self.take_waited(waited);
                    Ok(())
                }
                // The core does something else between two checks that may be much work.
                () = yield_now(), if unasked => self.ask_next().await,
                request = next_of(&mut self.requests), if reads => self.take(request).await,
                _ = self.ending.changed(), if self.requests.is_some() => {
                    self.requests = None;
                    Ok(())
                }
                () = self.age.as_mut(), if self.requests.is_some() => {
                    self.requests = None;
                    Ok(())
                }
            };
            if let Err(status) = fits {
                break Some(status);
            }
            if self.work > MAX_WORK {
                self.work = 0;
                let_others_go_on().await;
            }
        };
        // What waits needs no memory any more, even if the client reads late.
        drop(self);
        if let Some(status) = end {
            let _ = sender.send(AnswerList(vec![(Err(status), None)])).await;
        }
    }

    /// Begins the checks of a message and, if there is room, of those that have arrived after it.
    ///
    /// # Errors
    /// They take too much memory: the stream ends.
    async fn take(&mut self, mut request: Option<Result<CheckRequest, Status>>) -> Result<(), Status> {
        // Other streams of the connection may have used the room up while this one waited for the message.
        let room = self.meter.has_room_for_unsent(ROOM);
        let (mut checks, mut all) = (Vec::new(), 0);
        loop {
            match request {
                Some(Ok(check)) => {
                    all += weight(&check);
                    checks.push(check);
                }
                // The checks before it are answered.
                Some(Err(status)) => {
                    self.service.unreadable(&status);
                    (self.requests, self.broken) = (None, Some(status));
                }
                None => self.requests = None,
            }
            if all >= MAX_TOGETHER || !room || self.requests.is_none() {
                break;
            }
            let Some(next) = next_of(&mut self.requests).now_or_never() else { break };
            request = next;
        }
        let weights: Vec<usize> = checks.iter().map(weight).collect();
        let begun = messages::begin(&self.service, checks.into_iter().map(messages::read), None, Rest::Later);
        self.go_on(begun.into_iter().zip(weights)).await
    }

    /// Answers checks that have begun, each with the number of its descriptors, or waits for them.
    async fn go_on(&mut self, begun: impl IntoIterator<Item = (StartedCheck, usize)>) -> Result<(), Status> {
        for (begun, weight) in begun {
            if begun.waits() {
                self.wait_for(begun, weight)?;
            } else {
                let answer = begun.answer(&self.service, None).await;
                let taken = self.hold(messages::answer_bytes(&answer))?;
                self.answers.0.push((Ok(answer), Some(taken)));
            }
        }
        Ok(())
    }

    fn wait_for(&mut self, mut check: StartedCheck, weight: usize) -> Result<(), Status> {
        let taken = self.hold(check.bytes())?;
        self.work += check.work();
        self.waiting_weight += weight;
        let service = Arc::clone(&self.service);
        self.waiting.push(Box::pin(async move {
            let outcome = if check.is_asked() {
                Outcome::Answered(check.answer(&service, None).await)
            } else {
                check.wait_for_keys().await;
                Outcome::Unasked(check)
            };
            Waited { outcome, weight, taken }
        }));
        Ok(())
    }

    fn take_waited(&mut self, Waited { outcome, weight, taken }: Waited) {
        self.waiting_weight -= weight;
        match outcome {
            Outcome::Answered(answer) => {
                self.answers.0.push((Ok(answer), Some(taken)));
            }
            Outcome::Unasked(check) => self.unasked.push_back((check, weight, taken)),
        }
    }

    /// Asks the limits of the next check that was put off.
    async fn ask_next(&mut self) -> Result<(), Status> {
        let Some((check, weight, taken)) = self.unasked.pop_front() else { return Ok(()) };
        // It takes memory again, with its limits.
        drop(taken);
        let check = check.ask(&self.service);
        self.go_on([(check, weight)]).await
    }

    /// Takes memory for checks that wait, or for answers that the client has not read.
    fn hold(&self, bytes: usize) -> Result<Taken, Status> {
        let overloaded = || Status::resource_exhausted("overloaded: too many bytes of answers wait to be sent");
        self.meter.unsent(bytes).ok_or_else(overloaded)
    }
}

/// How much work a check is.
fn weight(check: &CheckRequest) -> usize {
    check.descriptors.len().max(1)
}

/// Lets the other tasks of the core go on, and the core look at its sockets.
async fn let_others_go_on() {
    // New checks in `FuturesUnordered` have woken this task, so the first one may end at once.
    yield_now().await;
    yield_now().await;
}

async fn next_of<S: Stream + Unpin>(stream: &mut Option<S>) -> Option<S::Item> {
    match stream {
        Some(stream) => stream.next().await,
        None => future::pending().await,
    }
}

#[cfg(test)]
#[path = "stream_tests.rs"]
mod tests;
