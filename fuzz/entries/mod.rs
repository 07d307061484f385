//! The entry points for untrusted bytes, and the properties that must hold for all bytes: no panic, and a valid answer.
//! The fuzz targets of `fuzz/targets/` search for bytes that violate them. `tests/pure/fuzz_corpora.rs` runs the saved
//! inputs.

#![allow(dead_code, reason = "each fuzz target uses only one entry point")]

use limiter::{Event, LaneId, Reply, WallTime};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, HttpBody, to_bytes};
use axum::http::{HeaderName, HeaderValue, Request, Response};
use bytes::Bytes;
use counter_script::wire;
use http_body_util::BodyExt;
use hyper::body::Frame;
use limiter::counter::{BatchOutcome, StoreError};
use limiter::rules::RuleBook;
use limiter::{Check, Descriptor, DryRun, NodeTime, Revision, Shard, ShardConfig, StoreTime};
use prost::Message as _;
use proto::envoy::service::ratelimit::v3::RateLimitRequest;
use proto::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer as EnvoyServer;
use proto::tidegate::v1::rate_limit_service_server::RateLimitServiceServer as NativeServer;
use tidegate::api::batches::BatchGate;
use tidegate::api::check_service::CheckService;
use tidegate::api::grpc::envoy::Envoy;
use tidegate::api::grpc::native::Native;
use tidegate::api::http::forward_auth::ForwardAuth;
use tidegate::api::http::forward_auth::notices::Notices;
use tidegate::api::http::forward_auth::trust::{AttributeHeader, Trust};
use tidegate::api::http::{HttpState, Peer, routes};
use tidegate::api::request_id::RequestIds;
use tidegate::ports::{Answer, BoxFuture, Clock, Limiter, NodeStatus, Readiness, StoreHealth, Unavailable, Wait};
use tidegate::rulefile::{cases, decode};
use tidegate::server::body_budget::{BodyKind, BudgetedBody};
use tidegate::server::meter::{Budgets, Meter};
use tidegate::server::metrics::ConnectionMetrics;
use tidegate::telemetry::checks::CheckMetrics;
use tidegate::telemetry::registry::MetricsRegistry;
use tower_service::Service;

/// The time at which every run starts, in microseconds since the epoch. It is in the middle of many windows.
const START: StoreTime = StoreTime(1_700_000_123_456_789);
/// Rules of every kind, so that requests can match each kind.
const RULES: &str = include_str!("rules.yaml");

/// Returns the compiled [`RULES`].
fn book() -> Arc<RuleBook> {
    static BOOK: LazyLock<Arc<RuleBook>> =
        LazyLock::new(|| Arc::new(decode::compile("rules.yaml", RULES, Revision(1)).expect("valid rules")));
    Arc::clone(&BOOK)
}

/// A limiter that decides at once with a store of its own. Its time advances by one millisecond for each check.
struct DryRunLimiter {
    dry_run: Mutex<DryRun>,
    /// The time since [`START`], in microseconds.
    elapsed: AtomicU64,
}

impl DryRunLimiter {
    fn new() -> Self {
        Self { dry_run: Mutex::new(DryRun::new(book(), START)), elapsed: AtomicU64::new(0) }
    }
}

impl Limiter for DryRunLimiter {
    fn deadline(&self) -> Duration {
        Duration::ZERO
    }

    fn check(&self, check: &Check<'_>, _: NodeTime, _: Wait) -> Answer {
        let elapsed = self.elapsed.fetch_add(1000, Ordering::Relaxed);
        let decision = self.dry_run.lock().unwrap_or_else(PoisonError::into_inner).check(check, elapsed);
        Answer::Now(decision.map_err(Unavailable::Overloaded))
    }

    fn check_all(&self, checks: &[Check<'_>], now: NodeTime, wait: Wait) -> Vec<Answer> {
        checks.iter().map(|check| self.check(check, now, wait)).collect()
    }
}

/// A clock that does not advance.
struct FixedClock;

impl Clock for FixedClock {
    fn now(&self) -> NodeTime {
        NodeTime(0)
    }

    fn wall(&self) -> WallTime {
        WallTime(START.0)
    }
}

/// A node that is always ready.
struct ReadyNode;

impl NodeStatus for ReadyNode {
    fn readiness(&self) -> Readiness {
        Readiness {
            ready: true,
            revision: Revision(1),
            rules_hash: None,
            rejected_rules: None,
            store: StoreHealth::Ok,
            cluster: None,
            advice: Vec::new(),
            draining: false,
        }
    }

    fn metrics(&self) -> BoxFuture<'_, Result<String, String>> {
        Box::pin(std::future::ready(Ok(String::new())))
    }
}

fn check_metrics() -> Arc<CheckMetrics> {
    let registry = MetricsRegistry::new("0", "fuzz").expect("a registry");
    Arc::new(CheckMetrics::new(&registry).expect("metrics"))
}

fn budgets() -> Budgets {
    let registry = MetricsRegistry::new("0", "fuzz").expect("a registry");
    Budgets::new(
        1 << 26,
        check_metrics(),
        ConnectionMetrics::new(&registry).expect("metrics").listener("http").cut_answers(),
    )
}

fn notices() -> Notices {
    Notices::new(&MetricsRegistry::new("0", "fuzz").expect("a registry")).expect("metrics")
}

fn service() -> Arc<CheckService> {
    let metrics = check_metrics();
    Arc::new(CheckService {
        limiter: Arc::new(DryRunLimiter::new()),
        clock: Arc::new(FixedClock),
        tally: metrics.tally(),
        metrics,
        ids: RequestIds::new(1),
        identities: Arc::new(tidegate::ports::identity::NoIdentities),
        batches: BatchGate::new(),
    })
}

thread_local! {
    static RUNTIME: tokio::runtime::Runtime =
        tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    RUNTIME.with(|runtime| runtime.block_on(future))
}

/// Reads the bytes as a rule file and as a file of test cases. Invalid rules must yield errors that have a text. Valid
/// rules must yield their warnings, decide checks and say why limits do not apply, without a panic.
pub fn rule_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match decode::compile("f.yaml", text, Revision(1)) {
        Err(errors) => assert!(!errors.is_empty() && errors.iter().all(|error| !error.to_string().is_empty())),
        Ok(book) => {
            let warnings = decode::file_warnings("f.yaml", text, &book, 3);
            assert!(warnings.iter().all(|warning| !warning.message.is_empty()));
            let book = Arc::new(book);
            let mut dry_run = DryRun::new(Arc::clone(&book), START);
            for (index, domain) in ["d", "api", "d"].into_iter().enumerate() {
                let entries = [("user", "u"), ("path", "/a/b"), ("tier", "free"), ("ip", "10.0.0.1")];
                let descriptors = [Descriptor {
                    entries: &entries,
                    ordered: true,
                    hits: 1,
                    charging: Default::default(),
                    limit: None,
                }];
                let check = Check { domain, descriptors: &descriptors };
                assert!(book.unapplied(&check).iter().all(|limit| !limit.reasons.is_empty()));
                let _ = dry_run.check(&check, index as u64 * 1000);
            }
        }
    }
    if let Err(errors) = cases::parse("f.yaml", text) {
        assert!(!errors.is_empty());
    }
}

/// A request body that arrives in chunks. The last element is the next chunk.
struct ChunkedBody(Vec<Bytes>);

impl ChunkedBody {
    /// Splits `bytes` into chunks of `size` bytes.
    fn new(bytes: &[u8], size: usize) -> Self {
        Self(bytes.chunks(size).rev().map(Bytes::copy_from_slice).collect())
    }
}

impl HttpBody for ChunkedBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.pop().map(|chunk| Ok(Frame::data(chunk))))
    }
}

/// Returns the answer of `call` to a body. Asserts that the answer does not depend on the size of the chunks in which
/// the body arrives, and that the body budget is free afterwards.
fn same_answer_for_any_chunking<T: PartialEq + std::fmt::Debug>(
    bytes: &[u8],
    kind: BodyKind,
    call: impl Fn(BudgetedBody<ChunkedBody>) -> T,
) -> T {
    let answers = [bytes.len().max(1), 1 + bytes.len() % 7].map(|size| {
        let meter = Arc::new(Meter::new(Arc::new(budgets()), true));
        let answer = call(BudgetedBody::new(ChunkedBody::new(bytes, size), kind, 100, Arc::clone(&meter)));
        assert_eq!(meter.held(), 0, "the budget must be free after the answer");
        answer
    });
    let [whole, chunked] = answers;
    assert_eq!(whole, chunked, "the answer must not depend on the chunks of the body");
    whole
}

/// Sends the bytes as the body of `POST /v1/check`. The response must be a JSON object: a decision or a problem
/// document.
pub fn http_body(bytes: &[u8]) {
    let (status, body) = same_answer_for_any_chunking(bytes, BodyKind::Plain, post_check);
    assert!([200, 400, 413, 429].contains(&status), "{status}");
    assert!(body.starts_with(b"{") && body.ends_with(b"}"));
}

/// Sends the lines as headers of `GET /v1/authorize` from a trusted proxy. The response must be a decision: nothing
/// that a proxy's client chooses is an error.
pub fn forward_auth(bytes: &[u8]) {
    let mut request = Request::get("/v1/authorize?domain=d").body(Body::empty()).expect("a request");
    for line in bytes.split(|byte| *byte == b'\n').take(100) {
        let (name, value) = line.split_at(line.iter().position(|byte| *byte == b':').unwrap_or(line.len()));
        let value = value.strip_prefix(b":").unwrap_or(value).trim_ascii();
        // The HTTP library accepts no others.
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name), HeaderValue::from_bytes(value)) {
            request.headers_mut().append(name, value);
        }
    }
    request.extensions_mut().insert(Peer([127, 0, 0, 1].into()));
    let attributes = vec![AttributeHeader::new("tier").expect("a name")];
    let trust = Trust { attributes, ..Trust::of_loopback() };
    let (status, body) = call_http(trust, request);
    assert!(status == 200 && body.is_empty() || status == 429 && body.starts_with(b"{"), "{status}");
}

/// Returns the status and the body of the response to `POST /v1/check`.
fn post_check(body: BudgetedBody<ChunkedBody>) -> (u16, Bytes) {
    call_http(Trust::default(), Request::post("/v1/check").body(body).expect("a request"))
}

/// Returns the status and the body of the response to a request over HTTP.
fn call_http<B>(trust: Trust, request: Request<B>) -> (u16, Bytes)
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    block_on(async {
        let forward_auth = ForwardAuth { trust, notices: Arc::new(notices()) };
        let node = Arc::new(ReadyNode);
        let (tokens, origins) = (None, Arc::default());
        let state = HttpState { service: service(), node, forward_auth: Arc::new(forward_auth), tokens, origins };
        let mut routes = routes(state);
        let response: Result<Response<Body>, Infallible> = routes.call(request).await;
        let (head, body) = response.expect("a response").into_parts();
        (head.status.as_u16(), to_bytes(body, 1 << 22).await.expect("a body"))
    })
}

/// Returns the `grpc-status` with which a service responds to a body. The body includes the framing of the messages.
fn call_grpc<S, B>(mut service: S, path: &str, body: BudgetedBody<ChunkedBody>) -> i32
where
    S: Service<Request<BudgetedBody<ChunkedBody>>, Response = Response<B>, Error = Infallible>,
    B: HttpBody<Data = Bytes> + Unpin,
    B::Error: std::fmt::Debug,
{
    let request = Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .expect("a request");
    block_on(async {
        let response = service.call(request).await.expect("a response");
        let (head, mut body) = response.into_parts();
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

/// Asserts that a status is suitable for invalid input: UNKNOWN and DATA_LOSS are not. INTERNAL is allowed, because the
/// library returns it for a body that is no message, or ends within one.
fn assert_suitable_status(status: i32) {
    const UNKNOWN: i32 = 2;
    const DATA_LOSS: i32 = 15;
    assert!((0..=16).contains(&status) && ![UNKNOWN, DATA_LOSS].contains(&status), "{status}");
}

/// Sends the bytes as the body of Envoy's call. Its answer is an error only if Envoy's configuration can be the cause.
pub fn envoy_request(bytes: &[u8]) {
    let path = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";
    let status = same_answer_for_any_chunking(bytes, BodyKind::GrpcMessages, |body| {
        call_grpc(EnvoyServer::new(Envoy(service())).max_decoding_message_size(1 << 20), path, body)
    });
    assert_suitable_status(status);
    if is_configured_well(bytes) {
        assert_eq!(status, 0, "a client of the gateway can cause an error");
    }
}

/// True if the body is one request of Envoy in which everything that only Envoy's configuration says is valid.
fn is_configured_well(body: &[u8]) -> bool {
    let Some((&[0, a, b, c, d], message)) = body.split_first_chunk() else { return false };
    if message.len() != u32::from_be_bytes([a, b, c, d]) as usize {
        return false;
    }
    let Ok(request) = RateLimitRequest::decode(message) else { return false };
    let counts = |count: usize| (1..=100).contains(&count);
    (1..=4096).contains(&request.domain.len())
        && counts(request.descriptors.len())
        && request.descriptors.iter().all(|descriptor| {
            let known_unit = descriptor.limit.is_none_or(|limit| (1..=7).contains(&limit.unit));
            let keys = || descriptor.entries.iter().all(|entry| entry.key.len() <= 1000);
            known_unit && descriptor.entries.len() <= 100 && keys()
        })
}

/// Sends the bytes as the body of each native call: a stream of checks, one check, and a batch.
pub fn native_stream(bytes: &[u8]) {
    for call in ["CheckStream", "Check", "CheckBatch"] {
        assert_suitable_status(same_answer_for_any_chunking(bytes, BodyKind::GrpcMessages, |body| {
            let (_sender, ending) = tokio::sync::watch::channel(());
            let service = NativeServer::new(Native { service: service(), ending }).max_decoding_message_size(1 << 20);
            call_grpc(service, &format!("/tidegate.v1.RateLimitService/{call}"), body)
        }));
    }
}

/// Gives the bytes to a shard as the replies to its batches. A Redis that is not trusted may send any reply, and the
/// shard must continue after it.
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
        hash_keys: false,
        seeds: [1, 2, 3, 4],
    };
    let mut shard = Shard::new(config, WallTime(START.0), NodeTime(0));
    let _ = shard.handle(Event::Rules(book()), NodeTime(0));
    let entries = [("user", "u"), ("tier", "free"), ("ip", "10.0.0.1"), ("path", "/a/b")];
    let descriptors =
        [Descriptor { entries: &entries, ordered: true, hits: 1, charging: Default::default(), limit: None }];
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
        if let Ok(reply) = wire::decode_reply(bytes, items)
            && let BatchOutcome::Ran(replies) = reply.outcome
        {
            assert_eq!(replies.len(), items, "every item must have a reply");
        }
    }
}
