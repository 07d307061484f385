//! TLS to Redis: version 1.3 only, servers verified.

use std::io;
use std::sync::Arc;

use fred::types::config::TlsConnector;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("expected certificates in PEM")]
    Authorities,
    /// With the last error of loading the machine's certificates, if there was one.
    #[error("this machine has no trusted root certificates: {0:?}")]
    NoNativeRoots(Option<rustls_native_certs::Error>),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Rustls(#[from] rustls::Error),
}

/// Returns a connector that trusts the certificate authorities in `authorities` (PEM); without it, those that this
/// machine trusts.
pub fn connector(authorities: Option<&[u8]>) -> Result<TlsConnector, TlsError> {
    let mut roots = RootCertStore::empty();
    let mut load_error = None;
    match authorities {
        Some(pem) => {
            for certificate in CertificateDer::pem_slice_iter(pem) {
                roots.add(certificate.map_err(|_| TlsError::Authorities)?)?;
            }
        }
        None => {
            let mut native = rustls_native_certs::load_native_certs();
            load_error = native.errors.pop();
            roots.add_parsable_certificates(native.certs);
        }
    }
    if roots.is_empty() {
        return Err(if authorities.is_some() { TlsError::Authorities } else { TlsError::NoNativeRoots(load_error) });
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(&[&rustls::version::TLS13])?;
    Ok(TlsConnector::from(config.with_root_certificates(roots).with_no_client_auth()))
}
