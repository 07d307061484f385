//! Serves connections within limits on their start, their idle time and their age, and counts why this node closed
//! them.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hyper::body::{Body, Incoming};
use hyper::service::Service;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::balance::Acceptor;
use super::body_budget::{BodyBudget, BodyKind, BudgetedBody};
use super::metrics::CloseReason;
use super::timer::CoarseTimer;

/// The age at which a connection is asked to end, so that few long connections still spread over cores and nodes.
const MAX_AGE: Duration = Duration::from_secs(300);
/// How long the requests in flight may take then. A stream that its client does not read lasts no longer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the head of a request may take to arrive, and how long an idle HTTP/1 connection lasts. Proxies keep theirs
/// for less (nginx 60 s), so that none sends a request into a connection that is just being closed.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// How long the HTTP/2 preface may take to arrive.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 streams per core, split evenly over its connections when each is accepted, but never below [`MIN_STREAMS`].
/// This keeps the state of requests in flight in the caches: a thousand streams on each of sixteen connections doubled
/// the cost of each request.
const STREAMS_PER_CORE: usize = 512;
/// A client may open a hundred streams before it receives the limit (RFC 9113, section 6.5.2, recommends no less). With
/// a lower limit its requests would be reset, and a gateway that fails open would let them pass.
const MIN_STREAMS: usize = 128;
/// The first bytes of an HTTP/2 connection (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The first pause before the preface is read again. Each pause is twice as long as the one before.
const PREFACE_PAUSE: Duration = Duration::from_millis(20);
/// The longest of these pauses.
const MAX_PREFACE_PAUSE: Duration = Duration::from_secs(1);

/// How often an idle connection is pinged.
const KEEPALIVE: Duration = Duration::from_secs(30);

/// What a connection may speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1, or HTTP/2 if the connection begins with its preface.
    Http,
    /// HTTP/2 only.
    Grpc,
}

/// The settings of a connection that both front ends share.
pub fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http2().timer(CoarseTimer::new()).keep_alive_interval(KEEPALIVE);
    builder
}

/// Serves every connection of `acceptor` until `stop`, then until the requests in flight are answered. A connection
/// that does not begin as `protocol` requires, or not in time, is closed.
///
/// This is not tonic's server. That one answers an elapsed `grpc-timeout` with HTTP status 200, which forward-auth
/// takes for allowed, and it waits for a silent connection without end.
pub async fn serve<S, B>(
    listener: TcpListener,
    mut acceptor: Acceptor,
    service: impl Fn(SocketAddr) -> S,
    builder: Builder<TokioExecutor>,
    protocol: Protocol,
    stop: impl Future<Output = ()>,
) where
    S: Service<Request<BudgetedBody>, Response = Response<B>, Future: Send> + Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    // Every connection holds a receiver. None is left once the last connection has ended.
    let (shutdown, is_shut_down) = watch::channel(());
    let mut stop = pin!(stop);
    loop {
        let (stream, guard) = tokio::select! {
            next = acceptor.next(&listener) => next,
            () = &mut stop => break,
        };
        let service = service(guard.peer);
        let (mut builder, mut is_shut_down) = (builder.clone(), is_shut_down.clone());
        let streams = (STREAMS_PER_CORE / guard.open_on_core()).max(MIN_STREAMS);
        builder.http2().max_concurrent_streams(u32::try_from(streams).unwrap_or(u32::MAX));
        #[expect(clippy::disallowed_methods, reason = "`shutdown` waits until every connection has ended")]
        tokio::spawn(async move {
            let carried_request = Arc::new(AtomicBool::new(false));
            let kind = if protocol == Protocol::Grpc { BodyKind::GrpcMessages } else { BodyKind::Plain };
            let service =
                TrackedService { service, carried_request: Arc::clone(&carried_request), kind, budget: guard.budget() };
            if let Err(why) = serve_one(stream, protocol, &builder, service, &carried_request, &mut is_shut_down).await
            {
                guard.closed(why);
            }
        });
    }
    // Other cores hand over no more connections.
    drop((listener, acceptor, is_shut_down));
    shutdown.send_replace(());
    shutdown.closed().await;
}

/// Serves one connection. An error says why this node had to close it.
async fn serve_one<S, B>(
    stream: TcpStream,
    protocol: Protocol,
    builder: &Builder<TokioExecutor>,
    service: TrackedService<S>,
    carried_request: &AtomicBool,
    is_shut_down: &mut watch::Receiver<()>,
) -> Result<(), CloseReason>
where
    S: Service<Request<BudgetedBody>, Response = Response<B>, Future: Send> + Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let time = if protocol == Protocol::Grpc { PREFACE_TIMEOUT } else { HEAD_TIMEOUT };
    let preface = tokio::select! {
        preface = tokio::time::timeout(time, sniff_preface(&stream)) => {
            preface.map_err(|_| CloseReason::Slow)?.unwrap_or(Preface::EndOfStream)
        }
        _ = is_shut_down.changed() => return Ok(()),
    };
    match preface {
        Preface::EndOfStream => return Ok(()),
        Preface::Other if protocol == Protocol::Grpc => return Err(CloseReason::Protocol),
        Preface::Other | Preface::Http2 => {}
    }
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let why = |done: Result<(), Box<dyn Error + Send + Sync>>| {
        // A client that goes away is not counted.
        done.err().and_then(|error| close_reason(&*error, carried_request.load(Ordering::Relaxed))).map_or(Ok(()), Err)
    };
    tokio::select! {
        done = connection.as_mut() => return why(done),
        _ = is_shut_down.changed() => {}
        () = tokio::time::sleep(MAX_AGE) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::time::timeout(DRAIN_TIMEOUT, connection).await.map_or(Err(CloseReason::Slow), why)
}

/// How a connection begins.
enum Preface {
    Http2,
    /// As HTTP/1, or as something unknown.
    Other,
    /// The client closed it before.
    EndOfStream,
}

/// Looks at the first bytes of a connection without taking them.
async fn sniff_preface(stream: &TcpStream) -> io::Result<Preface> {
    let mut seen = [0; PREFACE.len()];
    let mut pause = PREFACE_PAUSE;
    loop {
        match stream.peek(&mut seen).await? {
            0 => return Ok(Preface::EndOfStream),
            count if !PREFACE.starts_with(&seen[..count]) => return Ok(Preface::Other),
            count if count == PREFACE.len() => return Ok(Preface::Http2),
            // A peek returns at once while bytes are there, and does not say that no more will come.
            _ if stream.ready(Interest::READABLE).await?.is_read_closed() => return Ok(Preface::EndOfStream),
            _ => tokio::time::sleep(pause).await,
        }
        pause = (2 * pause).min(MAX_PREFACE_PAUSE);
    }
}

/// Records that a connection carried a request, and gives each body its budget.
struct TrackedService<S> {
    service: S,
    carried_request: Arc<AtomicBool>,
    kind: BodyKind,
    budget: Arc<BodyBudget>,
}

impl<S: Service<Request<BudgetedBody>>> Service<Request<Incoming>> for TrackedService<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        self.carried_request.store(true, Ordering::Relaxed);
        self.service.call(request.map(|body| BudgetedBody::new(body, self.kind, Arc::clone(&self.budget))))
    }
}

/// Returns why this node closed a connection, if it did. A connection that carried requests and then none for long is
/// idle, and its end is not counted.
fn close_reason(error: &(dyn Error + Send + Sync + 'static), carried_request: bool) -> Option<CloseReason> {
    let error = error.downcast_ref::<hyper::Error>()?;
    if error.is_timeout() {
        return (!carried_request).then_some(CloseReason::Slow);
    }
    let by_us = |error: &h2::Error| error.is_library() && !error.is_io();
    let protocol = error.is_parse() || error.source().and_then(|e| e.downcast_ref()).is_some_and(by_us);
    protocol.then_some(CloseReason::Protocol)
}
