//! TLS of a command: whom it trusts, what it shows, and what its errors mean.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::{CertificateError, Error as TlsFailure, InvalidMessage};
use tokio::net::TcpStream;

use super::{Duplex, TlsArgs, chain};
use crate::host::clock::SystemClock;
use crate::telemetry::registry::MetricsRegistry;
use crate::tls::metrics::TlsMetrics;
use crate::tls::settings::{ClientFiles, IdentityFiles};
use crate::tls::{Certificates, ClientTls, TlsError};

/// TLS of a command.
pub struct Tls {
    client: ClientTls,
    ca_file: Option<PathBuf>,
    shows_certificate: bool,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// If one cannot be used. The text names the argument.
    pub fn new(args: &TlsArgs) -> Result<Self, String> {
        let identity = args.cert_file.clone().zip(args.key_file.clone());
        let identity = identity.map(|(cert, key)| IdentityFiles { cert, key });
        let files = ClientFiles { ca: args.ca_file.clone(), identity, pins: Vec::new() };
        let registry = MetricsRegistry::new("", "").and_then(|registry| TlsMetrics::new(&registry));
        let metrics = registry.map_err(|error| error.to_string())?;
        let client = Certificates::new(Arc::new(SystemClock::new()), metrics).client("", &files);
        let client = client.map_err(|error| named(&error))?;
        Ok(Self { client, ca_file: files.ca, shows_certificate: files.identity.is_some() })
    }

    /// Waits for the handshake with `host`, whose certificate must have this name. `protocol` is what both will speak.
    ///
    /// # Errors
    /// When the connection ends, or one side rejects the other.
    pub async fn connect(&self, host: &str, protocol: &'static [u8], stream: TcpStream) -> io::Result<Box<dyn Duplex>> {
        Ok(Box::new(self.client.speaking(&[protocol]).connect(host, stream).await?))
    }

    /// Says what an error means and what to do.
    pub fn explain(&self, error: &(dyn Error + 'static)) -> String {
        match find(error) {
            Some(TlsFailure::InvalidCertificate(CertificateError::UnknownIssuer)) => match &self.ca_file {
                Some(file) => format!("no authority in {} signed the certificate of the node", file.display()),
                None => "no authority that this machine trusts signed the certificate of the node: name the authority \
                         with --ca-file"
                    .to_owned(),
            },
            Some(TlsFailure::InvalidCertificate(error)) => format!("the node's certificate is rejected: {error}"),
            Some(TlsFailure::InvalidMessage(InvalidMessage::InvalidContentType)) => {
                "the node does not speak TLS on this port: the address begins with http:// or grpc://".to_owned()
            }
            // A node that rejects the certificate says so after the handshake. The connection may end before its alert
            // is read, and HTTP/2 has only the text of it.
            _ if self.shows_certificate => format!("{} (the node may reject --cert-file)", chain(error)),
            _ => {
                let text = chain(error);
                format!("{text} (if the node has `tls.client_ca_file`, it expects --cert-file and --key-file)")
            }
        }
    }
}

/// The error of TLS among the causes of `error`.
fn find<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a TlsFailure> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<TlsFailure>() {
            return Some(found);
        }
        // An I/O error is no cause of its own content.
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = inner.map(|inner| inner as &(dyn Error + 'static)).or_else(|| error.source());
    }
    None
}

/// An error with the argument instead of the setting.
fn named(error: &TlsError) -> String {
    let argument = |setting: &str| format!("--{}", setting.trim_start_matches('.').replace('_', "-"));
    match error {
        TlsError::File { setting, file, problem } => format!("{}: {}: {problem}", argument(setting), file.display()),
        TlsError::NoNativeRoots { .. } => {
            "this machine has no trusted root certificates: name the authority with --ca-file".to_owned()
        }
        TlsError::Rustls(_) => error.to_string(),
    }
}
