//! The life of a connection: it begins in time, is asked, ends in time, and what ended it is counted.

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

use super::metered::{Kind, Metered, Reading};
use super::spread::Share;
use crate::telemetry::connections::Closed;

/// A connection is asked to end after so long, so that few long ones still spread over cores and nodes.
const MAX_AGE: Duration = Duration::from_secs(300);
/// How long what is under way on it may take then: a stream that nobody reads does not last.
const LAST_CALLS: Duration = Duration::from_secs(30);
/// How long the head of a request may take to come in, and an idle connection of HTTP/1 lasts: longer than proxies keep
/// theirs (nginx 60 s), so that none sends a request into a connection that is just being closed.
pub const HEAD_TIME: Duration = Duration::from_secs(75);
/// How long HTTP/2's preface may take.
const PREFACE_TIME: Duration = Duration::from_secs(10);
/// Calls under way that the connections of a core share, each as many as its part when it came, at least and at most: as much
/// memory as caches have. A thousand calls on each of sixteen connections cost twice as much each, just when there are many. A
/// client may send a hundred before it is told how many it may (RFC 9113, section 6.5.2, recommends no less): fewer would be
/// reset, and a gateway lets such requests pass.
const STREAMS: usize = 512;
const LEAST_STREAMS: usize = 128;
/// What a connection of HTTP/2 begins with (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long to wait for the rest of it at first, and at most before the next look.
const PREFACE_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Face {
    /// HTTP/1, or HTTP/2 for those who begin with its preface.
    Http,
    /// HTTP/2 only.
    Grpc,
}

/// Serves every connection that `listener` accepts until `stop`, then until what is under way is answered. Those that do
/// not begin as `face` has it, or not in time, are closed.
///
/// Not tonic's server, which obeys `grpc-timeout` with status 200 (behind forward-auth a client could let itself pass),
/// and waits for a connection that says nothing for as long as that likes.
pub async fn connections<S, B>(
    listener: TcpListener,
    mut share: Share,
    service: impl Fn(SocketAddr) -> S,
    builder: Builder<TokioExecutor>,
    face: Face,
    stop: impl Future<Output = ()>,
) where
    S: Service<Request<Metered>, Response = Response<B>, Future: Send> + Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    // Every connection holds a receiver: none is left once the last has ended.
    let (ending, ended) = watch::channel(());
    let mut stop = pin!(stop);
    loop {
        let (stream, open) = tokio::select! {
            next = share.next(&listener) => next,
            () = &mut stop => break,
        };
        let service = service(open.peer);
        let (mut builder, mut ended) = (builder.clone(), ended.clone());
        let streams = (STREAMS / open.neighbours()).max(LEAST_STREAMS);
        builder.http2().max_concurrent_streams(u32::try_from(streams).unwrap_or(u32::MAX));
        #[expect(clippy::disallowed_methods, reason = "`ending` waits until every connection has ended")]
        tokio::spawn(async move {
            let asked = Arc::new(AtomicBool::new(false));
            let kind = if face == Face::Grpc { Kind::Messages } else { Kind::Plain };
            let service = Noting { service, asked: Arc::clone(&asked), kind, reading: open.reading() };
            if let Err(why) = live(stream, face, &builder, service, &asked, &mut ended).await {
                open.closed(why);
            }
        });
    }
    // Other cores hand over no more.
    drop((listener, share, ended));
    ending.send_replace(());
    ending.closed().await;
}

/// One connection; an error says why this node had to end it.
async fn live<S, B>(
    stream: TcpStream,
    face: Face,
    builder: &Builder<TokioExecutor>,
    service: Noting<S>,
    asked: &AtomicBool,
    ended: &mut watch::Receiver<()>,
) -> Result<(), Closed>
where
    S: Service<Request<Metered>, Response = Response<B>, Future: Send> + Send + 'static,
    S::Error: Into<Box<dyn Error + Send + Sync>>,
    B: Body<Data: Send, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let time = if face == Face::Grpc { PREFACE_TIME } else { HEAD_TIME };
    let begun = tokio::select! {
        begun = tokio::time::timeout(time, begins(&stream)) => begun.map_err(|_| Closed::Slow)?.unwrap_or(Begun::Gone),
        _ = ended.changed() => return Ok(()),
    };
    match begun {
        Begun::Gone => return Ok(()),
        Begun::Otherwise if face == Face::Grpc => return Err(Closed::Protocol),
        Begun::Otherwise | Begun::Http2 => {}
    }
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let why = |done: Result<(), Box<dyn Error + Send + Sync>>| {
        // A client that goes away in the middle is no news.
        done.err().and_then(|error| why_closed(&*error, asked.load(Ordering::Relaxed))).map_or(Ok(()), Err)
    };
    tokio::select! {
        done = connection.as_mut() => return why(done),
        _ = ended.changed() => {}
        () = tokio::time::sleep(MAX_AGE) => {}
    }
    connection.as_mut().graceful_shutdown();
    tokio::time::timeout(LAST_CALLS, connection).await.map_or(Err(Closed::Slow), why)
}

/// How a connection begins.
enum Begun {
    Http2,
    /// As HTTP/1, or as nothing at all.
    Otherwise,
    /// It ended before.
    Gone,
}

/// How what comes in begins; nothing of it is taken.
async fn begins(stream: &TcpStream) -> io::Result<Begun> {
    let mut seen = [0; PREFACE.len()];
    let mut pause = PREFACE_PAUSE;
    loop {
        match stream.peek(&mut seen).await? {
            0 => return Ok(Begun::Gone),
            count if !PREFACE.starts_with(&seen[..count]) => return Ok(Begun::Otherwise),
            count if count == PREFACE.len() => return Ok(Begun::Http2),
            // A peek answers at once while anything is there, and does not tell that nothing more will come.
            _ if stream.ready(Interest::READABLE).await?.is_read_closed() => return Ok(Begun::Gone),
            _ => tokio::time::sleep(pause).await,
        }
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

/// Notes that a connection was asked something, and meters what it is asked.
struct Noting<S> {
    service: S,
    asked: Arc<AtomicBool>,
    kind: Kind,
    reading: Arc<Reading>,
}

impl<S: Service<Request<Metered>>> Service<Request<Incoming>> for Noting<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, request: Request<Incoming>) -> S::Future {
        self.asked.store(true, Ordering::Relaxed);
        self.service.call(request.map(|body| Metered::new(body, self.kind, Arc::clone(&self.reading))))
    }
}

/// Why a connection ended, if it was this node that had to end it. One that was `asked` something and then nothing more for
/// long is idle, and its end no news.
fn why_closed(error: &(dyn Error + Send + Sync + 'static), asked: bool) -> Option<Closed> {
    let error = error.downcast_ref::<hyper::Error>()?;
    if error.is_timeout() {
        return (!asked).then_some(Closed::Slow);
    }
    let by_us = |error: &h2::Error| error.is_library() && !error.is_io();
    let protocol = error.is_parse() || error.source().and_then(|e| e.downcast_ref()).is_some_and(by_us);
    protocol.then_some(Closed::Protocol)
}
