//! What a stream leaves to others: the time of its core, and the memory of its connection.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::{Full, StreamBody};
use hyper::body::{Body, Bytes, Frame};
use limiter::rules::{APPLIED, Identity, IdentityTerms, MAX_BATCH_WORK, OnIdentityFailure};
use limiter::{Check, Decision, NodeTime, Revision, WallTime};
use prost::Message;
use proto::SmallBufferCodec;
use tonic::Code;
use tonic::codec::Codec;

use super::*;
use crate::api::batches::BatchGate;
use crate::api::check_service::room_for_keys;
use crate::api::request_id::RequestIds;
use crate::ports::identity::{Identified, Identities, KeyAnswer, Owner};
use crate::ports::{Answer, Clock, Limiter, Unavailable, Wait};
use crate::server::meter::{Budgets, Heads};
use crate::telemetry::checks::CheckMetrics;
use crate::telemetry::registry::MetricsRegistry;

/// A clock that does not advance.
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> NodeTime {
        NodeTime(0)
    }

    fn wall(&self) -> WallTime {
        WallTime(0)
    }
}

/// Lets others go on for a while, as a store that takes its time.
async fn pause() {
    for _ in 0..10 {
        yield_now().await;
    }
}

/// Lets others go on until something is so.
async fn until(is_so: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if is_so() {
            return;
        }
        yield_now().await;
    }
    panic!("it was never so");
}

/// Allows every check.
struct Noting {
    /// The steps of each check.
    work: usize,
    /// True if a check waits for the store.
    waits: bool,
    /// The times that others went on.
    turn: Arc<AtomicUsize>,
    /// The turn in which each check was asked.
    asked: Mutex<Vec<usize>>,
}

impl Noting {
    /// The most checks that were asked without letting others go on.
    fn most_in_a_turn(&self) -> usize {
        self.asked.lock().unwrap().chunk_by(|a, b| a == b).map(<[usize]>::len).max().unwrap_or(0)
    }
}

impl Limiter for Noting {
    fn deadline(&self) -> Duration {
        Duration::from_millis(100)
    }

    fn identity(&self, _: &str) -> IdentityTerms {
        IdentityTerms { identity: Identity::Either, on_failure: OnIdentityFailure::Deny }
    }

    fn check(&self, _: &Check<'_>, _: NodeTime, _: Wait) -> Answer {
        self.asked.lock().unwrap().push(self.turn.load(Ordering::Relaxed));
        let decision = Ok::<_, Unavailable>(Decision {
            allowed: true,
            degraded: false,
            partitioned: false,
            revision: Revision(1),
            domain: None,
            retry_after: None,
            identity: None,
            too_much_work: false,
            limits: Vec::new(),
        });
        if !self.waits {
            return Answer::Now(decision);
        }
        let decision = Box::pin(async {
            pause().await;
            decision
        });
        Answer::Later { work: self.work, bytes: 1024 + self.work / APPLIED * 256, decision }
    }

    fn check_all(&self, checks: &[Check<'_>], now: NodeTime, wait: Wait) -> Vec<Answer> {
        let most = 1 + MAX_BATCH_WORK / self.work;
        checks.iter().take(most).map(|check| self.check(check, now, wait)).collect()
    }
}

/// Finds the owner of every key after a while.
struct Slow;

impl Identities for Slow {
    fn identify(&self, _: &str, _: Duration) -> Identified {
        let looked_up = Box::pin(async {
            pause().await;
            KeyAnswer::Valid(Owner { user: "u".to_owned(), tier: None, key_id: "k".to_owned() })
        });
        Identified::Later { looked_up, without: KeyAnswer::Unavailable }
    }
}

/// What came of a stream.
struct Seen {
    answers: usize,
    end: Option<Status>,
    most_in_a_turn: usize,
}

/// What the streams of a connection share.
struct Shared {
    service: Arc<CheckService>,
    limiter: Arc<Noting>,
    turn: Arc<AtomicUsize>,
    meter: Arc<Meter>,
    cut: prometheus::IntCounter,
}

/// Returns what the streams of a connection share that may hold `budget` bytes beyond its allowance. Checks cost `work`
/// steps each, and may wait for the store.
fn shared(work: usize, waits: bool, budget: usize) -> Shared {
    let metrics = Arc::new(CheckMetrics::new(&MetricsRegistry::new("test", "test").unwrap()).unwrap());
    let cut = prometheus::IntCounter::new("cut", "answers that were cut off").unwrap();
    let meter = Arc::new(Meter::new(Arc::new(Budgets::new(budget, Arc::clone(&metrics), cut.clone())), Heads::Http2));
    let turn = Arc::new(AtomicUsize::new(0));
    let limiter = Arc::new(Noting { work, waits, turn: Arc::clone(&turn), asked: Mutex::default() });
    let service = Arc::new(CheckService {
        limiter: Arc::clone(&limiter) as Arc<dyn Limiter>,
        clock: Arc::new(FixedClock),
        tally: metrics.tally(),
        metrics,
        ids: RequestIds::new(1),
        identities: Arc::new(Slow),
        batches: BatchGate::new(),
        waiting_for_keys: room_for_keys(),
    });
    Shared { service, limiter, turn, meter, cut }
}

/// Encodes a check that has an attribute of this name.
fn message(attribute: &str) -> Vec<u8> {
    message_with_id(attribute, "")
}

fn message_with_id(attribute: &str, id: &str) -> Vec<u8> {
    let attributes = [(attribute.to_owned(), "x".to_owned())].into();
    let request_id = id.to_owned();
    let check = CheckRequest { domain: "d".to_owned(), attributes, request_id, ..CheckRequest::default() };
    let message = check.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &message].concat()
}

/// Reads the checks of a body as a stream does that arrives.
fn requests(
    body: impl Body<Data = Bytes, Error: Into<tonic::codegen::StdError>> + Send + 'static,
) -> Streaming<CheckRequest> {
    let decoder = SmallBufferCodec::<CheckResponse, CheckRequest>::default().decoder();
    Streaming::new_request(decoder, body, None, None)
}

/// Sends `count` checks at once on a stream of a connection that may hold `budget` bytes beyond its allowance. They
/// have an attribute of this name, cost `work` steps each, and may wait for the store.
async fn send(count: usize, attribute: &str, work: usize, waits: bool, budget: usize) -> Seen {
    let Shared { service, limiter, turn, meter, cut } = shared(work, waits, budget);
    let body = Full::new(Bytes::from(message(attribute).repeat(count)));
    let (_running, ending) = watch::channel(());
    let stream = answers(service, Arc::clone(&meter), requests(body), ending);
    let received = stream.collect::<Vec<_>>();
    let others = async {
        loop {
            turn.fetch_add(1, Ordering::Relaxed);
            yield_now().await;
        }
    };
    let received = tokio::select! {
        received = received => received,
        () = others => unreachable!("others never end"),
    };
    assert_eq!(meter.held(), 0, "nothing is held after the end");
    let end = received.iter().find_map(|answer| answer.as_ref().err()).cloned();
    assert_eq!(cut.get(), u64::from(end.is_some()));
    let answers = received.iter().flatten().filter(|answer| answer.allowed).count();
    Seen { answers, end, most_in_a_turn: limiter.most_in_a_turn() }
}

#[tokio::test]
async fn checks_that_are_much_work_let_others_go_on() {
    let most = 1 + MAX_BATCH_WORK / MAX_WORK;
    for waits in [false, true] {
        let seen = send(200, "user", MAX_WORK, waits, 64 << 20).await;
        assert_eq!((seen.answers, seen.end.is_none()), (200, true));
        assert!(seen.most_in_a_turn <= most, "{} checks in a turn, waits: {waits}", seen.most_in_a_turn);
    }
    // What waits for the store is answered later, so nothing else holds the stream back.
    let seen = send(2000, "user", MAX_WORK / 100, true, 64 << 20).await;
    assert_eq!(seen.answers, 2000);
    assert!(seen.most_in_a_turn <= MAX_TOGETHER, "{} checks in a turn", seen.most_in_a_turn);
}

#[tokio::test]
async fn checks_whose_keys_get_known_at_once_let_others_go_on() {
    let seen = send(200, "api_key", 1, false, 64 << 20).await;
    assert_eq!((seen.answers, seen.most_in_a_turn), (200, 1));
}

#[tokio::test]
async fn usual_checks_are_answered_while_others_have_used_up_the_budget() {
    for (attribute, waits) in [("user", false), ("user", true), ("api_key", true)] {
        let seen = send(200, attribute, 100, waits, 0).await;
        assert_eq!((seen.answers, seen.end.map(|end| end.code())), (200, None), "{attribute}, waits: {waits}");
    }
}

#[tokio::test]
async fn a_check_that_takes_too_much_memory_ends_its_stream() {
    for attribute in ["user", "api_key"] {
        let seen = send(3, attribute, MAX_WORK, true, 0).await;
        assert_eq!((seen.answers, seen.end.map(|end| end.code())), (0, Some(Code::ResourceExhausted)), "{attribute}");
    }
}

/// A stream that rested when there was room must not believe in it when its next checks come.
#[tokio::test]
async fn a_stream_that_rested_reads_one_check_at_a_time_once_others_have_used_up_the_room() {
    const BUDGET: usize = 12 << 20;
    let Shared { service, meter, .. } = shared(50 * APPLIED, true, BUDGET);
    let (arrive, arriving) = mpsc::channel(1);
    let (_running, ending) = watch::channel(());
    let stream = answers(service, Arc::clone(&meter), requests(StreamBody::new(ReceiverStream::new(arriving))), ending);
    pause().await;
    let others = meter.unsent(BUDGET / 2 - (50 << 10)).unwrap();
    let checks = Bytes::from(message("user").repeat(200));
    arrive.send(Ok::<_, Status>(Frame::data(checks))).await.unwrap();
    drop(arrive);
    let received = stream.collect::<Vec<_>>().await;
    assert!(received.len() == 200 && received.iter().all(Result::is_ok), "{:?}", received.last());
    drop(others);
    assert_eq!(meter.held(), 0);
}

#[tokio::test]
async fn a_client_that_vanishes_holds_nothing() {
    for waits in [false, true] {
        let Shared { service, meter, .. } = shared(APPLIED, waits, 64 << 20);
        let (_running, ending) = watch::channel(());
        let body = Full::new(Bytes::from(message("user").repeat(2000)));
        let mut stream = answers(service, Arc::clone(&meter), requests(body), ending);
        assert!(stream.next().await.unwrap().is_ok());
        until(|| meter.held() > 0).await;
        drop(stream);
        until(|| meter.held() == 0).await;
    }
}

/// The answer to a check with an invalid id repeats it.
#[tokio::test]
async fn long_ids_of_answers_that_nobody_reads_take_memory() {
    let Shared { service, meter, .. } = shared(APPLIED, false, 64 << 20);
    let (_running, ending) = watch::channel(());
    let body = Full::new(Bytes::from(message_with_id("user", &"x".repeat(60_000)).repeat(100)));
    let stream = answers(service, Arc::clone(&meter), requests(body), ending);
    until(|| meter.held() > 5_000_000).await;
    drop(stream);
    until(|| meter.held() == 0).await;
}
