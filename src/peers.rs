//! How bytes get from one node to another: TCP on loopback, or mutual TLS. Tests have a network of their own.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::{Stream, StreamExt};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpListener;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::server::Connected;

use crate::ports::BoxFuture;
use crate::tls::peers::{Peer, PeerSecurity, PeerStream};

/// Anything that carries bytes both ways.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Duplex for T {}

/// A connection to or from another node.
pub struct Connection {
    stream: Box<dyn Duplex>,
    peer: Option<Arc<Peer>>,
}

impl Connection {
    /// A connection to a peer that showed no certificate.
    pub fn new(stream: impl Duplex) -> Self {
        Self { stream: Box::new(stream), peer: None }
    }

    fn to_peer(stream: PeerStream) -> Self {
        Self { peer: Some(stream.connect_info()), stream: Box::new(stream) }
    }
}

/// The network between the nodes of a cluster. Its peers are authenticated when they reach the caller.
pub trait Transport: Send + Sync + 'static {
    /// Listens on `address`.
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Incoming>>>;
    /// Connects to the node at `address`, `host:port`. The caller sets the deadline.
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Connection>>;
}

/// A socket that listens.
pub trait Incoming: Send + 'static {
    /// Waits for the next connection. A connection that fails is no error: it waits for the next one.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>>;
}

/// TCP: with mutual TLS, or on loopback only.
pub struct Network(pub PeerSecurity);

impl Network {
    fn check(&self, address: SocketAddr) -> io::Result<()> {
        if matches!(self.0, PeerSecurity::Plain) && !address.ip().is_loopback() {
            let text = format!("{address} is not a loopback address: other machines are reached with cluster.tls only");
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(())
    }
}

impl Transport for Network {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Incoming>>> {
        Box::pin(async move {
            self.check(address)?;
            let incoming: Peers = Box::pin(self.0.incoming(TcpListener::bind(address).await?));
            Ok(Box::new(incoming) as Box<dyn Incoming>)
        })
    }

    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Connection>> {
        let network = Self(self.0.clone());
        Box::pin(async move {
            if matches!(network.0, PeerSecurity::Plain) {
                for address in tokio::net::lookup_host(&address).await? {
                    network.check(address)?;
                }
            }
            let uri = format!("http://{address}").parse::<Uri>();
            let uri = uri.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            network.0.connector().call(uri).await.map(|stream| Connection::to_peer(stream.into_inner()))
        })
    }
}

type Peers = Pin<Box<dyn Stream<Item = io::Result<PeerStream>> + Send>>;

impl Incoming for Peers {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move {
            match self.next().await {
                Some(stream) => stream.map(Connection::to_peer),
                None => Err(io::ErrorKind::NotConnected.into()),
            }
        })
    }
}

impl Connected for Connection {
    type ConnectInfo = Option<Arc<Peer>>;

    fn connect_info(&self) -> Self::ConnectInfo {
        self.peer.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.stream).poll_shutdown(cx)
    }
}

/// Connects a gRPC client to one address.
#[derive(Clone)]
pub struct Connector {
    pub transport: Arc<dyn Transport>,
    pub address: String,
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Connection>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connected = self.transport.connect(self.address.clone());
        Box::pin(async move { connected.await.map(TokioIo::new) })
    }
}
