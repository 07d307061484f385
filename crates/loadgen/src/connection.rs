//! Opens connections to the target.

use std::io;
use std::time::{Duration, Instant};

use h2::client::SendRequest;
use http_body_util::Full;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::call::Call;
use crate::plan::LoadPlan;

/// The HTTP/2 flow-control window of a connection and of a stream, in bytes.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// How long to wait after a failed attempt to replace a lost connection.
pub const RECONNECT_DELAY: Duration = Duration::from_millis(20);

/// The sending half of an HTTP/1.1 connection.
pub type Http1Sender = hyper::client::conn::http1::SendRequest<Full<Bytes>>;
/// The sending half of an HTTP/2 connection.
pub type Http2Sender = SendRequest<Bytes>;

/// A connection to the target.
pub enum Connection {
    Http1(Http1Sender),
    Http2(Http2Sender),
}

/// Opens the share of the plan's connections that belongs to one thread. HTTP/1.1 uses one connection per call in
/// flight.
pub async fn connect_share(plan: &LoadPlan, thread: u32, threads: u32) -> io::Result<Vec<Connection>> {
    let count = plan.connections / threads + u32::from(thread < plan.connections % threads);
    let mut connections = Vec::new();
    for _ in 0..count {
        if plan.call == Call::Http {
            for _ in 0..plan.in_flight {
                connections.push(Connection::Http1(connect_http1(plan).await?));
            }
        } else {
            connections.push(Connection::Http2(connect_http2(plan).await?));
        }
    }
    Ok(connections)
}

async fn connect_tcp(plan: &LoadPlan) -> io::Result<TcpStream> {
    let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "the connection attempt timed out");
    let connecting = tokio::time::timeout(plan.timeout, TcpStream::connect(plan.target));
    let stream = connecting.await.map_err(|_| timed_out())??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

pub async fn connect_http1(plan: &LoadPlan) -> io::Result<Http1Sender> {
    let stream = connect_tcp(plan).await?;
    let (sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    tokio::task::spawn_local(async move {
        // The sender reports the error of the connection.
        let _ = connection.await;
    });
    Ok(sender)
}

pub async fn connect_http2(plan: &LoadPlan) -> io::Result<Http2Sender> {
    let stream = connect_tcp(plan).await?;
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(WINDOW_BYTES).initial_connection_window_size(WINDOW_BYTES).enable_push(false);
    let (sender, connection) = builder.handshake(stream).await.map_err(io::Error::other)?;
    tokio::task::spawn_local(async move {
        // The sender reports the error of the connection.
        let _ = connection.await;
    });
    Ok(sender)
}

/// An HTTP/2 connection that several calls share. The first call that finds it lost replaces it for all of them.
pub struct SharedConnection(Mutex<SharedState>);

struct SharedState {
    sender: Http2Sender,
    /// After a failed reconnect, the earliest instant of the next attempt.
    retry_at: Option<Instant>,
}

impl SharedConnection {
    pub fn new(sender: Http2Sender) -> Self {
        Self(Mutex::new(SharedState { sender, retry_at: None }))
    }

    pub async fn sender(&self) -> Http2Sender {
        self.0.lock().await.sender.clone()
    }

    /// Replaces the connection if it is lost, and returns its sender. If a reconnect has failed, all callers wait until
    /// the next attempt is allowed instead of trying themselves.
    #[expect(clippy::disallowed_methods, reason = "a load tool measures with the clock of this machine")]
    pub async fn renew(&self, plan: &LoadPlan) -> Http2Sender {
        let (sender, retry_at) = {
            let mut state = self.0.lock().await;
            let is_lost = state.sender.clone().ready().await.is_err();
            if is_lost && state.retry_at.is_none_or(|at| at <= Instant::now()) {
                match connect_http2(plan).await {
                    Ok(sender) => *state = SharedState { sender, retry_at: None },
                    Err(_) => state.retry_at = Some(Instant::now() + RECONNECT_DELAY),
                }
            }
            (state.sender.clone(), state.retry_at)
        };
        if let Some(retry_at) = retry_at {
            tokio::time::sleep(retry_at.saturating_duration_since(Instant::now())).await;
        }
        sender
    }
}
