//! Where bytes of strangers come in, and what must hold of every one of them: no panic, and an answer that makes sense.
//! The fuzz targets of this folder look for bytes for which it does not; `tests/fuzz_corpora.rs` tries those that they
//! kept.

#![allow(dead_code, reason = "each fuzz target uses its own part of it")]

use limiter::{Event, LaneId, Reply, WallTime};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody, to_bytes};
use axum::http::{Request, Response};
use bytes::Bytes;
use counter_script::wire;
use http_body_util::BodyExt;
use hyper::body::Frame;
use limiter::counter::{BatchOutcome, StoreError};
use limiter::rules::RuleBook;
use limiter::{Check, Descriptor, DryRun, NodeTime, Revision, Shard, ShardConfig, StoreTime};
use proto::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer as EnvoyServer;
use proto::tidegate::v1::rate_limit_service_server::RateLimitServiceServer as NativeServer;
use tidegate::api::check_service::CheckService;
use tidegate::api::grpc::envoy::Envoy;
use tidegate::api::grpc::native::Native;
use tidegate::api::http::{HttpState, routes};
use tidegate::api::request_id::RequestIds;
use tidegate::ports::{Answer, BoxFuture, Clock, Limiter, NodeStatus, Readiness, StoreHealth, Unavailable};
use tidegate::rulefile::{cases, decode};
use tidegate::server::body_budget::{BodyBudget, BodyKind, BudgetedBody};
use tidegate::telemetry::checks::CheckMetrics;
use tidegate::telemetry::registry::MetricsRegistry;
use tower_service::Service;

/// An instant in the middle of many windows, in microseconds.
const BEGIN: StoreTime = StoreTime(1_700_000_123_456_789);
/// Rules of every kind, for requests to meet.
const RULES: &str = include_str!("rules.yaml");

fn book() -> Arc<RuleBook> {
    static BOOK: LazyLock<Arc<RuleBook>> =
        LazyLock::new(|| Arc::new(decode::compile("rules.yaml", RULES, Revision(1)).expect("rules of this folder")));
    Arc::clone(&BOOK)
}

/// A limiter that decides at once, on a store of its own, and whose time goes on by a millisecond a check.
struct Trying(Mutex<DryRun>, AtomicU64);

impl Trying {
    fn new() -> Self {
        Self(Mutex::new(DryRun::new(book(), BEGIN)), AtomicU64::new(0))
    }
}

impl Limiter for Trying {
    fn check(&self, check: &Check<'_>, _: NodeTime, _: Option<Duration>) -> Answer {
        let after = self.1.fetch_add(1000, Ordering::Relaxed);
        let decision = self.0.lock().unwrap_or_else(PoisonError::into_inner).check(check, after);
        Answer::Now(decision.map_err(Unavailable::Overloaded))
    }

    fn check_all(&self, checks: &[Check<'_>], now: NodeTime, timeout: Option<Duration>) -> Vec<Answer> {
        checks.iter().map(|check| self.check(check, now, timeout)).collect()
    }
}

struct Standing;

impl Clock for Standing {
    fn now(&self) -> NodeTime {
        NodeTime(0)
    }

    fn wall(&self) -> WallTime {
        WallTime(BEGIN.0)
    }
}

struct ReadyNode;

impl NodeStatus for ReadyNode {
    fn readiness(&self) -> Readiness {
        Readiness { ready: true, revision: Revision(1), store: StoreHealth::Ok, advice: Vec::new(), draining: false }
    }

    fn metrics(&self) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(std::future::ready(Ok(String::new())))
    }
}

fn check_metrics() -> Arc<CheckMetrics> {
    let registry = MetricsRegistry::new("0", "fuzz").expect("a registry");
    Arc::new(CheckMetrics::new(&registry).expect("metrics"))
}

fn service() -> Arc<CheckService> {
    let metrics = check_metrics();
    Arc::new(CheckService {
        limiter: Arc::new(Trying::new()),
        clock: Arc::new(Standing),
        tally: metrics.tally(),
        metrics,
        ids: RequestIds::new(1),
    })
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
}

fn wait_for<T>(work: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(work))
}

/// A rule file, with the cases beside its rules: it is refused with places, or its rules decide a check.
pub fn rule_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match decode::compile("f.yaml", text, Revision(1)) {
        Err(errors) => assert!(!errors.is_empty() && errors.iter().all(|error| !error.to_string().is_empty())),
        Ok(book) => {
            let mut trial = DryRun::new(Arc::new(book), BEGIN);
            for (at, domain) in ["d", "api", "d"].into_iter().enumerate() {
                let entries = [("user", "u"), ("path", "/a/b"), ("tier", "free"), ("ip", "10.0.0.1")];
                let descriptors = [Descriptor { entries: &entries, ordered: true, hits: 1, limit: None }];
                let _ = trial.check(&Check { domain, descriptors: &descriptors }, at as u64 * 1000);
            }
        }
    }
    if let Err(errors) = cases::parse("f.yaml", text) {
        assert!(!errors.is_empty());
    }
}

/// A body that comes in pieces.
struct Pieces(Vec<Bytes>);

impl Pieces {
    /// The first comes first.
    fn of(bytes: &[u8], size: usize) -> Self {
        Self(bytes.chunks(size).rev().map(Bytes::copy_from_slice).collect())
    }
}

impl HttpBody for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(|piece| Ok(Frame::data(piece))))
    }
}

/// What `call` answers to a body, which is the same however it comes in; nothing of it is held afterwards.
fn however<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    kind: BodyKind,
    call: impl Fn(BudgetedBody<Pieces>) -> T,
) -> T {
    let answers = [bytes.len().max(1), 1 + bytes.len() % 7].map(|size| {
        let budget = Arc::new(BodyBudget::new(check_metrics()));
        let answer = call(BudgetedBody::new(Pieces::of(bytes, size), kind, Arc::clone(&budget)));
        assert_eq!(budget.bytes(), 0, "what was read is given back");
        answer
    });
    let [whole, in_pieces] = answers;
    assert_eq!(whole, in_pieces, "an answer that depends on how its question comes in");
    whole
}

/// The body of `POST /v1/check`: a decision, or what is wrong with it, in JSON.
pub fn http_body(bytes: &[u8]) {
    let (status, body) = however(bytes, BodyKind::Plain, check);
    assert!([200, 400, 413, 429].contains(&status), "{status}");
    assert!(body.starts_with(b"{") && body.ends_with(b"}"));
}

fn check(body: BudgetedBody<Pieces>) -> (u16, Bytes) {
    let request = Request::post("/v1/check").body(body).expect("a request");
    wait_for(async {
        let mut routes =
            routes(HttpState { service: service(), node: Arc::new(ReadyNode), trusted_proxies: Arc::new([]) });
        let answer: Result<Response<Body>, Infallible> = routes.call(request).await;
        let (head, body) = answer.expect("an answer").into_parts();
        (head.status.as_u16(), to_bytes(body, 1 << 22).await.expect("a body"))
    })
}

/// What a gRPC service answers to a body, messages and what frames them included: its `grpc-status`.
fn grpc<S, B>(mut service: S, path: &str, body: BudgetedBody<Pieces>) -> i32
where
    S: Service<Request<BudgetedBody<Pieces>>, Response = Response<B>, Error = Infallible>,
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let request = Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .expect("a request");
    wait_for(async {
        let answer = service.call(request).await.expect("an answer");
        let (head, mut body) = answer.into_parts();
        assert_eq!(head.status, 200);
        let mut status = head.headers.get("grpc-status").cloned();
        while let Some(frame) = body.frame().await {
            if let Ok(trailers) = frame.expect("a frame").into_trailers() {
                status = trailers.get("grpc-status").cloned();
            }
        }
        let status = status.expect("a status");
        status.to_str().expect("digits").parse().expect("a code")
    })
}

/// No fault of a client's is told as one that this node does not know, or that lost something. INTERNAL is what the
/// library says of a message that is none.
fn is_fit(status: i32) {
    const UNKNOWN: i32 = 2;
    const DATA_LOSS: i32 = 15;
    assert!((0..=16).contains(&status) && ![UNKNOWN, DATA_LOSS].contains(&status), "{status}");
}

/// Envoy's call, as it comes in.
pub fn envoy_request(bytes: &[u8]) {
    let path = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    is_fit(however(bytes, BodyKind::GrpcMessages, |body| {
        grpc(EnvoyServer::new(Envoy(service())).max_decoding_message_size(1 << 20), path, body)
    }));
}

/// What a client sends on a stream of checks, in one call and as a batch.
pub fn native_stream(bytes: &[u8]) {
    for call in ["CheckStream", "Check", "CheckBatch"] {
        is_fit(however(bytes, BodyKind::GrpcMessages, |body| {
            let (_ended, ending) = tokio::sync::watch::channel(());
            let service = NativeServer::new(Native { service: service(), ending }).max_decoding_message_size(1 << 20);
            grpc(service, &format!("/tidegate.v1.RateLimitService/{call}"), body)
        }));
    }
}

/// What the script answers, by way of a Redis that may be anybody's: to a core that asked it, and goes on afterwards.
pub fn store_reply(bytes: &[u8]) {
    let config = ShardConfig {
        max_keys: 100,
        max_waiting: 10,
        lease_us: 1_000_000,
        deadline_us: 100_000,
        holders: 2,
        min_holders: 3,
        lanes: 1,
        max_items: 10,
        seeds: [1, 2, 3, 4],
    };
    let mut shard = Shard::new(config, WallTime(BEGIN.0), NodeTime(0));
    let _ = shard.handle(Event::Rules(book()), NodeTime(0));
    let entries = [("user", "u"), ("tier", "free"), ("ip", "10.0.0.1"), ("path", "/a/b")];
    let descriptors = [Descriptor { entries: &entries, ordered: true, hits: 1, limit: None }];
    for round in 0..3 {
        let now = NodeTime(round * 200_000);
        let _ = shard.handle(Event::Tick, now);
        let _ = shard.check(&Check { domain: "d", descriptors: &descriptors }, |_| LaneId(0), now, || ());
        for out in shard.handle(Event::Flush, now).send {
            let result = wire::decode_reply(bytes, out.batch.items.len()).map_err(|_| StoreError::Unknown);
            let _ = shard.handle(Event::Reply(Reply { lane: out.lane, batch: out.batch.id, result }), now);
        }
    }
    for items in [0, 1, 3] {
        if let Ok(answer) = wire::decode_reply(bytes, items)
            && let BatchOutcome::Ran(each) = answer.outcome
        {
            assert_eq!(each.len(), items, "an answer for every item");
        }
    }
}
