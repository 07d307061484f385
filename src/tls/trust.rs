//! Whom this node trusts: authorities from a file, and pinned keys.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::error::{NamedFile, TlsError};
use super::identity::{certificates, pin_of};
use super::provider;
use super::settings::Pin;
use super::watched::Watched;

/// What verifies the certificates of peers.
pub(super) struct Authorities {
    servers: Arc<WebPkiServerVerifier>,
    clients: Arc<dyn ClientCertVerifier>,
}

/// The authorities in the file `path`, which the setting `section.field` names.
pub(super) fn watch(section: &str, field: &str, path: &Path) -> Result<Watched<Authorities>, TlsError> {
    let file = NamedFile::new(section, field, path);
    Watched::open(vec![file.clone()], move |contents, _| {
        let mut roots = RootCertStore::empty();
        for certificate in certificates(&file, contents.first().map_or(&[], Vec::as_slice))? {
            roots.add(certificate).map_err(|error| file.error(error.to_string()))?;
        }
        authorities(roots).map_err(|error| file.error(error.to_string()))
    })
}

/// The authorities that this machine trusts.
pub(super) fn of_this_machine(section: &str) -> Result<Watched<Authorities>, TlsError> {
    let mut roots = RootCertStore::empty();
    let mut native = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(std::mem::take(&mut native.certs));
    if roots.is_empty() {
        return Err(TlsError::NoNativeRoots { setting: format!("{section}.ca_file"), error: native.errors.pop() });
    }
    Watched::open(Vec::new(), move |_, _| authorities(roots.clone()).map_err(TlsError::Rustls))
}

fn authorities(roots: RootCertStore) -> Result<Authorities, Error> {
    let roots = Arc::new(roots);
    let invalid = |error: rustls::client::VerifierBuilderError| Error::General(error.to_string());
    let servers = WebPkiServerVerifier::builder_with_provider(Arc::clone(&roots), provider()).build();
    let clients = WebPkiClientVerifier::builder_with_provider(roots, provider()).build();
    Ok(Authorities { servers: servers.map_err(invalid)?, clients: clients.map_err(invalid)? })
}

/// Verifies the certificates of peers: their chain, their time, their name, and their key if keys are pinned.
pub(super) struct Trust {
    pub(super) authorities: Arc<Watched<Authorities>>,
    /// Any key is trusted if there are none.
    pub(super) pins: Vec<Pin>,
}

/// The certificate is right, but its key is not one of those that were pinned.
#[derive(thiserror::Error)]
#[error("the peer's key {0} is none of the pinned keys")]
struct NotPinned(Pin);

/// As for people: the library shows the errors of others so.
impl fmt::Debug for NotPinned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Trust {
    fn check_pin(&self, certificate: &CertificateDer<'_>) -> Result<(), Error> {
        if self.pins.is_empty() {
            return Ok(());
        }
        let pin = pin_of(certificate)?;
        if self.pins.contains(&pin) {
            return Ok(());
        }
        Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(NotPinned(pin))))))
    }
}

impl fmt::Debug for Trust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trust").field("pins", &self.pins).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for Trust {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let servers = &self.authorities.current().servers;
        let verified = servers.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now)?;
        self.check_pin(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.current().servers.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.current().servers.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.current().servers.supported_verify_schemes()
    }
}

impl ClientCertVerifier for Trust {
    /// None: a peer without a certificate learns no names.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.authorities.current().clients.verify_client_cert(end_entity, intermediates, now)?;
        self.check_pin(end_entity)?;
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.current().clients.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.authorities.current().clients.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.authorities.current().clients.supported_verify_schemes()
    }
}
