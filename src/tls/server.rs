//! TLS of the connections that a listener accepts.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::NoServerSessionStorage;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::identity::{Identity, Shown};
use super::trust::Trust;
use super::watched::Watched;
use super::{VERSIONS, provider};

/// TLS of a listener. A clone shares the certificates.
#[derive(Clone)]
pub struct ServerTls(Arc<ServerConfig>);

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerTls")
    }
}

impl ServerTls {
    /// Shows `identity`. With `clients`, every client needs a certificate.
    pub(super) fn new(identity: Arc<Watched<Identity>>, clients: Option<Trust>) -> Result<Self, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS)?;
        let builder = match clients {
            Some(trust) => builder.with_client_cert_verifier(Arc::new(trust)),
            None => builder.with_no_client_auth(),
        };
        let mut config = builder.with_cert_resolver(Arc::new(Shown(identity)));
        // A resumed session would not verify the client again. Connections are few and long.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        Ok(Self(Arc::new(config)))
    }

    /// The same for connections that speak one of `protocols`. A client that offers only others is rejected.
    #[must_use]
    pub fn speaking(&self, protocols: &[&[u8]]) -> Self {
        let mut config = (*self.0).clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Self(Arc::new(config))
    }

    /// Waits for the handshake, without a deadline of its own.
    ///
    /// # Errors
    /// When the connection ends, or one side rejects the other. The client then gets an alert and nothing else.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        TlsAcceptor::from(Arc::clone(&self.0)).accept(stream).await
    }
}
