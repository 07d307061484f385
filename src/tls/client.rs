//! TLS of the connections that this node opens.

use std::fmt;
use std::io;
use std::sync::Arc;

use rustls::ClientConfig;
use rustls::client::Resumption;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::identity::{Identity, Shown};
use super::trust::Trust;
use super::watched::Watched;
use super::{VERSIONS, provider};

/// TLS of a client. A clone shares the certificates.
#[derive(Clone)]
pub struct ClientTls(Arc<ClientConfig>);

impl fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClientTls")
    }
}

impl ClientTls {
    /// Trusts the servers of `servers`, and shows them `identity`.
    pub(super) fn new(servers: Trust, identity: Option<Arc<Watched<Identity>>>) -> Result<Self, rustls::Error> {
        let builder = ClientConfig::builder_with_provider(provider()).with_protocol_versions(VERSIONS)?;
        let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(servers));
        let mut config = match identity {
            Some(identity) => builder.with_client_cert_resolver(Arc::new(Shown(identity))),
            None => builder.with_no_client_auth(),
        };
        // A resumed session would not verify the server again.
        config.resumption = Resumption::disabled();
        Ok(Self(Arc::new(config)))
    }

    /// The same for connections that speak one of `protocols` (ALPN).
    #[must_use]
    pub fn speaking(&self, protocols: &[&[u8]]) -> Self {
        let mut config = (*self.0).clone();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        Self(Arc::new(config))
    }

    /// The connector of a library that opens connections itself.
    pub fn connector(&self) -> TlsConnector {
        TlsConnector::from(Arc::clone(&self.0))
    }

    /// Waits for the handshake with the server `host`, a name or an address, without a deadline of its own.
    ///
    /// # Errors
    /// When the connection ends, or one side rejects the other.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, host: &str, stream: S) -> io::Result<TlsStream<S>> {
        let name =
            ServerName::try_from(host.to_owned()).map_err(|error| io::Error::other(format!("{host}: {error}")))?;
        self.connector().connect(name, stream).await
    }
}
