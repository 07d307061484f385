//! The entry points for untrusted bytes, and the properties that must hold for all bytes: no panic, and a valid answer.
//! The fuzz targets of `fuzz/targets/` search for bytes that violate them. `tests/pure/fuzz_corpora.rs` runs the saved
//! inputs.

#![allow(dead_code, reason = "each fuzz target uses only one entry point")]

mod fakes;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, HttpBody, to_bytes};
use axum::http::{HeaderName, HeaderValue, Request, Response};
use bytes::Bytes;
use counter_script::wire;
use futures_util::FutureExt as _;
use http_body_util::BodyExt;
use hyper::body::Frame;
use hyper_util::service::TowerToHyperService;
use limiter::counter::{BatchOutcome, StoreError};
use limiter::{Check, Descriptor, DryRun, Event, LaneId, NodeTime, Reply, Revision, Shard, ShardConfig, WallTime};
use prost::Message as _;
use proto::envoy::service::ratelimit::v3::RateLimitRequest;
use proto::envoy::service::ratelimit::v3::rate_limit_service_server::RateLimitServiceServer as EnvoyServer;
use proto::tidegate::v1::rate_limit_service_server::RateLimitServiceServer as NativeServer;
use tidegate::api::grpc::envoy::Envoy;
use tidegate::api::grpc::native::Native;
use tidegate::api::http::forward_auth::trust::{AttributeHeader, Trust};
use tidegate::api::http::{Peer, routes};
use tidegate::rulefile::{cases, decode};
use tidegate::server::body_budget::{BodyKind, BudgetedBody};
use tidegate::server::connection::{self, Connection, Protocol};
use tidegate::server::meter::{Heads, Meter};
use tidegate::server::preface::{PREFACE, Preface};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower_service::Service;

use self::fakes::{START, book, budgets, http_state, service};

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

/// Reads the bytes as the condition `when` of a limit, and as the value of an attribute. A valid condition must be
/// decided on a stack of 2 MiB, as a thread of a node has it.
pub fn expression(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let decide = || {
        let when = serde_json::to_string(text).expect("a string");
        let rules = format!(
            "version: 1\ndomains: [{{ domain: d, limits: [{{ name: l, per: [user], limit: 1, window: 1m, when: {when} }}] }}]"
        );
        let Ok(book) = decode::compile("f.yaml", &rules, Revision(1)) else { return };
        let book = Arc::new(book);
        let mut dry_run = DryRun::new(Arc::clone(&book), START);
        // An expression that copies it many times takes seconds.
        let long = "x".repeat(1 << 16);
        for (number, hits) in [(0, 1), (1, u32::MAX)] {
            let entries = [("user", "u"), ("text", text), ("number", "18"), ("long", &long)];
            let descriptors =
                [Descriptor { entries: &entries, ordered: true, hits, charging: Default::default(), limit: None }];
            let check = Check { domain: "d", descriptors: &descriptors };
            let reasons = book.unapplied(&check);
            let decision = dry_run.check(&check, number).expect("a decision");
            assert_eq!(decision.limits.is_empty(), !reasons.is_empty(), "{reasons:?}");
        }
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20);
    let ended = std::thread::scope(|scope| thread.spawn_scoped(scope, decide).expect("a thread").join());
    ended.expect("no panic");
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
        let meter = Arc::new(Meter::new(Arc::new(budgets(1 << 26)), Heads::Http1));
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

/// Sends the bytes on a connection whose client takes few of the answers, or none, and then goes away. The first byte
/// says whether it is one of HTTP/2, and how much the client takes. The node must hold nothing afterwards.
pub fn unread_answers(bytes: &[u8]) {
    const BUDGET: usize = 32 * 1024;
    let Some((choice, bytes)) = bytes.split_first() else { return };
    let (preface, first) = if choice % 2 == 1 { (Preface::Http2, &PREFACE[..]) } else { (Preface::Other, &b""[..]) };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
    runtime.block_on(async {
        let (mut send, requests) = tokio::io::duplex(first.len() + bytes.len() + 1);
        let (mut take, answers) = tokio::io::duplex(1024);
        let budgets = Arc::new(budgets(BUDGET));
        let (_running, is_shut_down) = tokio::sync::watch::channel(());
        let connection = Connection {
            protocol: Protocol::Http,
            builder: &connection::builder(),
            service: TowerToHyperService::new(routes(http_state(Trust::of_loopback()))),
            budgets: Arc::clone(&budgets),
            is_trusted: false,
            is_shut_down,
        };
        let served = connection.serve_http(tokio::io::join(requests, answers), preface);
        let client = async move {
            send.write_all(first).await.expect("room for all bytes");
            send.write_all(bytes).await.expect("room for all bytes");
            for _ in 0..choice / 2 {
                // What has arrived by then, if any.
                let _ = take.read(&mut [0; 64]).now_or_never();
                tokio::task::yield_now().await;
            }
        };
        let ((), _) = tokio::join!(client, served);
        // Streams of HTTP/2 are tasks of their own, which end after their connection.
        for _ in 0..10_000 {
            if budgets.taken() == 0 {
                break;
            }
            tokio::task::yield_now().await;
        }
        assert_eq!(budgets.taken(), 0, "a connection that has ended holds memory");
    });
}

/// Returns the status and the body of the response to a request over HTTP.
fn call_http<B>(trust: Trust, request: Request<B>) -> (u16, Bytes)
where
    B: HttpBody<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    block_on(async {
        let mut routes = routes(http_state(trust));
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
    let meter = Arc::clone(body.meter());
    let request = Request::post(path)
        .extension(meter)
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
