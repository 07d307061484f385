//! Connections between the nodes of a cluster: mutual TLS, or plain TCP on loopback.
//!
//! A peer that does not prove who it is gets nothing but the alert of its failed handshake: its bytes never reach the
//! server behind.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use futures_util::stream::unfold;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, JoinSet};
use tokio_rustls::TlsStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::server::Connected;

use super::HTTP2;
use super::client::ClientTls;
use super::identity::names;
use super::server::ServerTls;
use crate::ports::BoxFuture;

/// How long a connection and its handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most handshakes at once. With more, the oldest one ends: a node's takes milliseconds, a silent stranger's takes
/// all its time.
pub(super) const MAX_HANDSHAKES: usize = 256;
/// The pause after a connection could not be accepted, for example because the process has too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How the nodes of a cluster connect to each other.
#[derive(Clone, Debug)]
pub enum PeerSecurity {
    /// Plain TCP. Anybody who reaches the port is a peer.
    Plain,
    /// Each side shows the other its certificate.
    Mutual { server: ServerTls, client: ClientTls },
}

impl PeerSecurity {
    /// The TLS that [`super::Certificates::mutual`] made.
    pub fn mutual((server, client): (ServerTls, ClientTls)) -> Self {
        Self::Mutual { server: server.speaking(&[HTTP2]), client: client.speaking(&[HTTP2]) }
    }

    /// The connections of peers to `listener`, without end. Those that fail are not among them.
    pub fn incoming(&self, listener: TcpListener) -> impl Stream<Item = io::Result<PeerStream>> + Send + 'static {
        let incoming =
            Incoming { security: self.clone(), listener, handshakes: JoinSet::new(), order: VecDeque::new() };
        unfold(incoming, async |mut incoming| Some((Ok(incoming.next().await), incoming)))
    }

    /// Opens connections to peers, for an HTTP/2 client. Their URIs are `http://HOST:PORT`, also with TLS.
    pub fn connector(&self) -> PeerConnector {
        PeerConnector(self.clone())
    }

    async fn accept(self, stream: TcpStream, address: SocketAddr) -> io::Result<PeerStream> {
        stream.set_nodelay(true)?;
        match self {
            Self::Plain => {
                // A peer speaks first. Until it does, the bounds of handshakes hold for it.
                stream.peek(&mut [0]).await?;
                Ok(PeerStream::plain(stream, address))
            }
            Self::Mutual { server, .. } => {
                let stream = server.accept(stream).await?;
                Ok(PeerStream::over_tls(stream.into(), address))
            }
        }
    }

    async fn connect(self, host: &str, port: u16) -> io::Result<PeerStream> {
        let stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let address = stream.peer_addr()?;
        match self {
            Self::Plain => Ok(PeerStream::plain(stream, address)),
            Self::Mutual { client, .. } => {
                let stream = client.connect(host, stream).await?;
                Ok(PeerStream::over_tls(stream.into(), address))
            }
        }
    }
}

/// Accepts connections and waits for their handshakes, many at once.
struct Incoming {
    security: PeerSecurity,
    listener: TcpListener,
    handshakes: JoinSet<io::Result<PeerStream>>,
    /// The handshakes, the oldest first. Some have ended.
    order: VecDeque<AbortHandle>,
}

impl Incoming {
    async fn next(&mut self) -> PeerStream {
        loop {
            tokio::select! {
                accepted = self.listener.accept() => match accepted {
                    Ok((stream, address)) => self.begin(stream, address),
                    Err(error) => {
                        tracing::warn!(%error, "a connection of a peer was not accepted");
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
                Some(ended) = self.handshakes.join_next() => match ended {
                    Ok(Ok(stream)) => return stream,
                    Ok(Err(error)) => tracing::debug!(%error, "a connection to the cluster port failed"),
                    // The oldest of too many.
                    Err(_) => {}
                },
            }
        }
    }

    fn begin(&mut self, stream: TcpStream, address: SocketAddr) {
        self.order.retain(|handshake| !handshake.is_finished());
        if self.order.len() >= MAX_HANDSHAKES
            && let Some(oldest) = self.order.pop_front()
        {
            oldest.abort();
        }
        let accept = tokio::time::timeout(HANDSHAKE_TIMEOUT, self.security.clone().accept(stream, address));
        self.order.push_back(self.handshakes.spawn(async { accept.await? }));
    }
}

/// Opens connections to peers.
#[derive(Clone, Debug)]
pub struct PeerConnector(PeerSecurity);

impl Service<Uri> for PeerConnector {
    type Response = TokioIo<PeerStream>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<TokioIo<PeerStream>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let security = self.0.clone();
        Box::pin(async move {
            let (Some(host), Some(port)) = (uri.host(), uri.port_u16()) else {
                return Err(io::Error::other(format!("{uri}: expected a host and a port")));
            };
            // A URI has an IPv6 address in brackets.
            let host = host.trim_matches(['[', ']']);
            Ok(TokioIo::new(tokio::time::timeout(HANDSHAKE_TIMEOUT, security.connect(host, port)).await??))
        })
    }
}

/// A connection to a peer. With TLS, both sides have shown their certificates.
#[derive(Debug)]
pub struct PeerStream {
    transport: Transport,
    peer: Arc<Peer>,
}

/// The other side of a connection. A call finds it among the extensions of its request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    pub address: SocketAddr,
    /// The DNS names in the peer's certificate, its node name among them; `None` without TLS.
    pub names: Option<Vec<String>>,
}

impl Peer {
    /// True if the peer may speak for `node`: its certificate has the name, or the connection has no TLS.
    pub fn may_be(&self, node: &str) -> bool {
        self.names.as_ref().is_none_or(|names| names.iter().any(|name| name == node))
    }
}

#[derive(Debug)]
enum Transport {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl PeerStream {
    fn plain(stream: TcpStream, address: SocketAddr) -> Self {
        Self { transport: Transport::Plain(stream), peer: Arc::new(Peer { address, names: None }) }
    }

    fn over_tls(stream: TlsStream<TcpStream>, address: SocketAddr) -> Self {
        let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| chain.first());
        let names = Some(certificate.map(names).unwrap_or_default());
        Self { transport: Transport::Tls(Box::new(stream)), peer: Arc::new(Peer { address, names }) }
    }

    pub fn peer(&self) -> &Peer {
        &self.peer
    }
}

impl Connected for PeerStream {
    type ConnectInfo = Arc<Peer>;

    fn connect_info(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }
}

impl AsyncRead for PeerStream {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_read(context, into),
            Transport::Tls(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for PeerStream {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write(context, from),
            Transport::Tls(stream) => Pin::new(stream).poll_write(context, from),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_flush(context),
            Transport::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Transport::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match &mut self.transport {
            Transport::Plain(stream) => Pin::new(stream).poll_write_vectored(context, from),
            Transport::Tls(stream) => Pin::new(stream).poll_write_vectored(context, from),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match &self.transport {
            Transport::Plain(stream) => stream.is_write_vectored(),
            Transport::Tls(stream) => stream.is_write_vectored(),
        }
    }
}
