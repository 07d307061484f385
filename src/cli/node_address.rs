//! The node that a command calls, and connections to it: plain, or with TLS.

#[cfg(feature = "tls")]
mod tls;
#[cfg(not(feature = "tls"))]
#[path = "node_address/without_tls.rs"]
mod tls;

use std::error::Error;
use std::future::{Ready, ready};
use std::io;
use std::path::PathBuf;
use std::task::{Context, Poll};

use clap::Args;
use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::http::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};

use crate::tls::{HTTP1, HTTP2};

/// Files for a node that is called over TLS.
#[derive(Args)]
pub struct TlsArgs {
    /// Authorities that sign the node's certificate, in PEM [default: those that this machine trusts]
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Certificate to show to a node that has `tls.client_ca_file`, in PEM
    #[arg(long, value_name = "FILE", requires = "key_file")]
    cert_file: Option<PathBuf>,
    /// Private key of the certificate, in PEM
    #[arg(long, value_name = "FILE", requires = "cert_file")]
    key_file: Option<PathBuf>,
}

impl TlsArgs {
    fn any(&self) -> bool {
        self.ca_file.is_some() || self.cert_file.is_some()
    }
}

/// What a listener speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// `http://` and `https://`
    Http,
    /// `grpc://` and `grpcs://`
    Grpc,
}

/// A node's listener.
pub struct NodeAddress {
    /// As it was given.
    text: String,
    pub protocol: Protocol,
    /// `host:port`.
    pub authority: String,
    tls: Option<tls::Tls>,
}

/// A connection, with or without TLS.
trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

impl NodeAddress {
    /// Reads an address that speaks one of `protocols`, and the files of `args`.
    ///
    /// # Errors
    /// If it is no such address, or a file cannot be used. The text names the address or the argument.
    pub fn parse(text: &str, args: &TlsArgs, protocols: &[Protocol]) -> Result<Self, String> {
        let expected = || {
            let all = protocols.iter().map(|protocol| match protocol {
                Protocol::Http => "http://host:port or https://host:port",
                Protocol::Grpc => "grpc://host:port or grpcs://host:port",
            });
            format!("{text}: expected {}", all.collect::<Vec<_>>().join(", "))
        };
        let (scheme, rest) = text.split_once("://").ok_or_else(expected)?;
        let (protocol, secure) = match scheme {
            "http" => (Protocol::Http, false),
            "https" => (Protocol::Http, true),
            "grpc" => (Protocol::Grpc, false),
            "grpcs" => (Protocol::Grpc, true),
            _ => return Err(expected()),
        };
        let authority = rest.trim_end_matches('/');
        let parts = authority.rsplit_once(':').filter(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !protocols.contains(&protocol) || parts.is_none() || authority.contains('/') {
            return Err(expected());
        }
        if !secure && args.any() {
            return Err(format!("{text}: expected {scheme}s://, because files for TLS are given"));
        }
        let tls = if secure { Some(tls::Tls::new(args)?) } else { None };
        Ok(Self { text: text.to_owned(), protocol, authority: authority.to_owned(), tls })
    }

    /// Sends one request over a new connection with HTTP/1.1 and reads the response. The caller sets the deadline.
    ///
    /// # Errors
    /// Why there is no response.
    pub async fn send(&self, mut request: Request<Full<Bytes>>) -> Result<Response<Bytes>, String> {
        let host = self.authority.parse().map_err(|_| format!("{}: expected a host and a port", self.text))?;
        request.headers_mut().insert("host", host);
        let stream = TokioIo::new(self.open(HTTP1).await?);
        let explain = |error: hyper::Error| self.explain(&error);
        let (mut sender, connection) = hyper::client::conn::http1::handshake(stream).await.map_err(explain)?;
        #[expect(clippy::disallowed_methods, reason = "the connection ends with its only request")]
        tokio::spawn(connection);
        let (head, body) = sender.send_request(request).await.map_err(explain)?.into_parts();
        let body = body.collect().await.map_err(explain)?.to_bytes();
        Ok(Response::from_parts(head, body))
    }

    /// Opens a connection for calls over gRPC. The caller sets the deadline.
    ///
    /// # Errors
    /// Why there is no connection.
    pub async fn channel(&self) -> Result<Channel, String> {
        let stream = self.open(HTTP2).await?;
        let endpoint = Endpoint::from_shared(format!("http://{}", self.authority));
        let endpoint = endpoint.map_err(|error| self.explain(&error))?;
        endpoint.connect_with_connector(Opened(Some(stream))).await.map_err(|error| self.explain(&error))
    }

    async fn open(&self, protocol: &'static [u8]) -> Result<Box<dyn Duplex>, String> {
        let stream = TcpStream::connect(&self.authority).await.map_err(|error| format!("{}: {error}", self.text))?;
        let Some(tls) = &self.tls else { return Ok(Box::new(stream)) };
        let host = self.authority.rsplit_once(':').map_or("", |(host, _)| host).trim_matches(['[', ']']);
        tls.connect(host, protocol, stream).await.map_err(|error| self.explain(&error))
    }

    /// Says why a call failed on an open connection, and what to do.
    pub fn explain(&self, error: &(dyn Error + 'static)) -> String {
        let text = &self.text;
        match &self.tls {
            Some(tls) => format!("{text}: {}", tls.explain(error)),
            None => {
                let (scheme, rest) = text.split_once("://").unwrap_or_default();
                format!("{text}: {} (if the node has `tls`, the address is {scheme}s://{rest})", chain(error))
            }
        }
    }
}

/// An error with its causes.
fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let own = error.to_string();
        // Some errors quote their cause.
        if !text.contains(&own) {
            text = format!("{text}: {own}");
        }
        cause = error.source();
    }
    text
}

/// Hands out a connection that is open already, once.
struct Opened(Option<Box<dyn Duplex>>);

impl Service<Uri> for Opened {
    type Response = TokioIo<Box<dyn Duplex>>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}
