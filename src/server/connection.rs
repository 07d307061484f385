//! Serves connections within limits on their start, their idle time and their age, and counts why this node closed
//! them.

use std::error::Error;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::TryFutureExt;
use hyper::body::{Body, Incoming};
use hyper::service::{Service, service_fn};
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::answer_body::MeteredAnswer;
use super::balance::Acceptor;
use super::body_budget::{BodyKind, BudgetedBody};
use super::meter::{Budgets, Heads, Meter};
use super::metrics::CloseReason;
use super::preface::{Begun, Preface, read_preface, sniff_preface};
use super::read_ahead::{MeteredStream, head_length};
use super::timer::CoarseTimer;
use crate::tls::ServerTls;

/// The age at which a connection is asked to end, so that few long connections still spread over cores and nodes.
const MAX_AGE: Duration = Duration::from_secs(300);
/// How long the requests in flight may take then. A stream that its client does not read lasts no longer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the head of a request may take to arrive, and how long an idle HTTP/1 connection lasts. Proxies keep theirs
/// for less (nginx 60 s), so that none sends a request into a connection that is just being closed.
pub const HEAD_TIMEOUT: Duration = Duration::from_secs(75);
/// How long the TLS handshake may take, and how long the HTTP/2 preface may take to arrive.
const PREFACE_TIMEOUT: Duration = Duration::from_secs(10);
/// HTTP/2 streams per core, split evenly over its connections when each is accepted, but never below [`MIN_STREAMS`].
/// This keeps the state of requests in flight in the caches: a thousand streams on each of sixteen connections doubled
/// the cost of each request.
const STREAMS_PER_CORE: usize = 512;
/// A client may open a hundred streams before it receives the limit (RFC 9113, section 6.5.2, recommends no less). With
/// a lower limit its requests would be reset, and a gateway that fails open would let them pass.
const MIN_STREAMS: usize = 128;
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

/// The longest head of a request over HTTP/1, in bytes. The HTTP/1 library keeps a buffer of this length for a head
/// that does not end, and for what it has read ahead. Caddy passes on 68 KB with the file of `deploy/gateways`: a
/// gateway that fails open may let a request pass whose head a node refuses.
const MAX_HEAD: usize = 96 * 1024;

/// The settings of a connection that all front ends share.
pub fn builder() -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().max_buf_size(MAX_HEAD);
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
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
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
        let (mut builder, is_shut_down) = (builder.clone(), is_shut_down.clone());
        let streams = (STREAMS_PER_CORE / guard.open_on_core()).max(MIN_STREAMS);
        builder.http2().max_concurrent_streams(u32::try_from(streams).unwrap_or(u32::MAX));
        #[expect(clippy::disallowed_methods, reason = "`shutdown` waits until every connection has ended")]
        tokio::spawn(async move {
            let budgets = guard.budgets();
            let is_trusted = guard.is_trusted();
            let connection = Connection { protocol, builder: &builder, service, budgets, is_trusted, is_shut_down };
            let ended = match guard.tls() {
                None => connection.serve_plain(stream).await,
                // In a box, so that plain connections take no memory for it.
                Some(tls) => Box::pin(connection.serve_tls(stream, tls)).await,
            };
            if let Err(why) = ended {
                guard.closed(why);
            }
        });
    }
    // Other cores hand over no more connections.
    drop((listener, acceptor, is_shut_down));
    shutdown.send_replace(());
    shutdown.closed().await;
}

/// What one connection is served with.
pub struct Connection<'c, S> {
    pub protocol: Protocol,
    pub builder: &'c Builder<TokioExecutor>,
    pub service: S,
    pub budgets: Arc<Budgets>,
    /// The peer is a trusted proxy.
    pub is_trusted: bool,
    /// Changes when the node stops.
    pub is_shut_down: watch::Receiver<()>,
}

impl<S, B> Connection<'_, S>
where
    S: Service<Request<BudgetedBody>, Response = Response<B>, Future: Send> + Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + Unpin + 'static,
{
    /// Serves a connection without TLS. An error says why this node had to close it.
    async fn serve_plain(mut self, stream: TcpStream) -> Result<(), CloseReason> {
        match self.begins(sniff_preface(&stream)).await? {
            Preface::EndOfStream => Ok(()),
            preface => self.serve_http(stream, preface).await,
        }
    }

    /// Serves a connection with TLS. An error says why this node had to close it.
    async fn serve_tls(mut self, stream: TcpStream, tls: &ServerTls) -> Result<(), CloseReason> {
        let accepted = tokio::select! {
            accepted = tokio::time::timeout(PREFACE_TIMEOUT, tls.accept(stream)) => accepted,
            _ = self.is_shut_down.changed() => return Ok(()),
        };
        match accepted.map_err(|_| CloseReason::Slow)? {
            Ok(stream) => {
                let mut stream = Begun::new(stream);
                match self.begins(read_preface(&mut stream)).await? {
                    Preface::EndOfStream => Ok(()),
                    preface => self.serve_http(stream, preface).await,
                }
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                tracing::debug!(%error, "a TLS handshake failed");
                Err(CloseReason::Handshake)
            }
            // A client that goes away is not counted.
            Err(_) => Ok(()),
        }
    }

    /// Waits for the beginning of a connection. A node that stops takes it for ended.
    async fn begins(&mut self, preface: impl Future<Output = io::Result<Preface>>) -> Result<Preface, CloseReason> {
        let time = if self.protocol == Protocol::Grpc { PREFACE_TIMEOUT } else { HEAD_TIMEOUT };
        let preface = tokio::select! {
            preface = tokio::time::timeout(time, preface) => {
                preface.map_err(|_| CloseReason::Slow)?.unwrap_or(Preface::EndOfStream)
            }
            _ = self.is_shut_down.changed() => Preface::EndOfStream,
        };
        if preface == Preface::Other && self.protocol == Protocol::Grpc {
            return Err(CloseReason::Protocol);
        }
        Ok(preface)
    }

    /// Serves the requests of a connection that begins with `preface`, which is still unread.
    ///
    /// # Errors
    /// Why this node had to close the connection.
    pub async fn serve_http(
        mut self,
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        preface: Preface,
    ) -> Result<(), CloseReason> {
        let heads = match preface {
            _ if self.is_trusted => Heads::OfTrustedProxy,
            Preface::Other => Heads::Http1,
            _ => Heads::Http2,
        };
        let meter = Arc::new(Meter::new(self.budgets, heads));
        let of_connection = Arc::clone(&meter);
        let stream = MeteredStream::new(stream, Arc::clone(&meter));
        let carried_request = Arc::new(AtomicBool::new(false));
        let kind = if self.protocol == Protocol::Grpc { BodyKind::GrpcMessages } else { BodyKind::Plain };
        let (service, carries) = (self.service, Arc::clone(&carried_request));
        let service = service_fn(move |mut request: Request<Incoming>| {
            carries.store(true, Ordering::Relaxed);
            shorten(request.method_mut());
            let head = head_length(request.uri(), request.headers());
            if let Some(ahead) = &meter.read_ahead {
                ahead.head_passed_on(head);
            }
            let meter = Arc::clone(&meter);
            let request = request.map(|body| BudgetedBody::new(body, kind, head, Arc::clone(&meter)));
            let answer = service.call(request);
            // Not an `async` block, which would hold the future twice.
            answer.map_ok(|answer| answer.map(|body| MeteredAnswer::new(body, meter)))
        });
        let connection = self.builder.serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        let why = |done: Result<(), Box<dyn Error + Send + Sync>>| {
            // A client that goes away is not counted.
            match done {
                Ok(()) => Ok(()),
                Err(_) if of_connection.has_refused_head() => Err(CloseReason::Heads),
                Err(error) => close_reason(&*error, carried_request.load(Ordering::Relaxed)).map_or(Ok(()), Err),
            }
        };
        tokio::select! {
            done = connection.as_mut() => return why(done),
            _ = self.is_shut_down.changed() => {}
            () = tokio::time::sleep(MAX_AGE) => {}
        }
        connection.as_mut().graceful_shutdown();
        tokio::time::timeout(DRAIN_TIMEOUT, connection).await.map_or(Err(CloseReason::Slow), why)
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

/// The longest method that is kept, in bytes. No method that is in use is as long.
const MAX_METHOD: usize = 64;

/// Cuts a method that is too long. A client may send one as long as a head, and the libraries keep copies of it while
/// its request waits.
fn shorten(method: &mut Method) {
    if let Some((short, rest)) = method.as_str().split_at_checked(MAX_METHOD)
        && !rest.is_empty()
        && let Ok(short) = Method::from_bytes(short.as_bytes())
    {
        *method = short;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_method_is_cut_and_a_usual_one_is_not() {
        for (length, kept) in [(3, 3), (64, 64), (65, 64), (80_000, 64)] {
            let mut method = Method::from_bytes(&vec![b'G'; length]).unwrap();
            shorten(&mut method);
            assert_eq!(method.as_str(), "G".repeat(kept));
        }
    }
}
