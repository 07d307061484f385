//! What a stream leaves to others: the time of its core, and the memory of its connection.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use http_body_util::Full;
use hyper::body::Bytes;
use limiter::rules::{Identity, IdentityTerms, MAX_BATCH_WORK, OnIdentityFailure};
use limiter::{Check, Decision, NodeTime, Revision, WallTime};
use prost::Message;
use proto::SmallBufferCodec;
use tonic::Code;
use tonic::codec::Codec;

use super::*;
use crate::api::batches::BatchGate;
use crate::api::request_id::RequestIds;
use crate::ports::identity::{Identified, Identities, KeyAnswer, Owner};
use crate::ports::{Answer, Clock, Limiter, Unavailable, Wait};
use crate::server::meter::Budgets;
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
        Answer::Later { work: self.work, decision }
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
        Identified::Later(Box::pin(async {
            pause().await;
            KeyAnswer::Valid(Owner { user: "u".to_owned(), tier: None, key_id: "k".to_owned() })
        }))
    }
}

/// What came of a stream.
struct Seen {
    answers: usize,
    end: Option<Status>,
    most_in_a_turn: usize,
}

/// Sends `count` checks at once on a stream of a connection that may hold `budget` bytes beyond its allowance. They have
/// an attribute of this name, cost `work` steps each, and may wait for the store.
async fn send(count: usize, attribute: &str, work: usize, waits: bool, budget: usize) -> Seen {
    let metrics = Arc::new(CheckMetrics::new(&MetricsRegistry::new("test", "test").unwrap()).unwrap());
    let cut = prometheus::IntCounter::new("cut", "answers that were cut off").unwrap();
    let meter = Arc::new(Meter::new(Arc::new(Budgets::new(budget, Arc::clone(&metrics), cut.clone())), false));
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
    });
    let attributes = [(attribute.to_owned(), "x".to_owned())].into();
    let check = CheckRequest { domain: "d".to_owned(), attributes, ..CheckRequest::default() };
    let message = check.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let body = Full::new(Bytes::from([&[0][..], &length, &message].concat().repeat(count)));
    let decoder = SmallBufferCodec::<CheckResponse, CheckRequest>::default().decoder();
    let requests = Streaming::new_request(decoder, body, None, None);
    let (_running, ending) = watch::channel(());
    let stream = answers(service, Arc::clone(&meter), requests, ending);
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
