//! What this node shows its peers: a certificate with its chain, and the private key.

use std::fmt;
use std::sync::Arc;

use rustls::client::ResolvesClientCert;
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{InconsistentKeys, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use sha2::{Digest as _, Sha256};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::error::{NamedFile, TlsError};
use super::provider;
use super::settings::{IdentityFiles, Pin};
use super::watched::Watched;

/// A certificate and its key, and when the certificate ends.
pub(super) struct Identity {
    key: Arc<CertifiedKey>,
    /// In seconds since the epoch.
    pub(super) expires_at: i64,
}

/// The identity in `files`, which the section `section` of the settings names.
pub(super) fn watch(section: &str, files: &IdentityFiles) -> Result<Watched<Identity>, TlsError> {
    let cert = NamedFile::new(section, "cert_file", &files.cert);
    let key = NamedFile::new(section, "key_file", &files.key);
    Watched::open(vec![cert.clone(), key.clone()], move |contents, now| match contents {
        [chain, private] => load((&cert, chain), (&key, private), now),
        _ => Err(cert.error("expected a certificate and a key")),
    })
}

fn load(
    (cert_file, chain): (&NamedFile, &[u8]),
    (key_file, key): (&NamedFile, &[u8]),
    now: Option<i64>,
) -> Result<Identity, TlsError> {
    let chain = certificates(cert_file, chain)?;
    let expires_at = expires_at(&chain[0]).ok_or_else(|| cert_file.error("expected an X.509 certificate"))?;
    // At the start an expired certificate is taken, with a warning: the node's other parts are worth more than none.
    if now.is_some_and(|now| now >= expires_at) {
        return Err(cert_file.error("expected a certificate that has not expired"));
    }
    // The error of the parser could quote the file.
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|_| key_file.error("expected a private key in PEM, without a passphrase"))?;
    let key = CertifiedKey::from_der(chain, key, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            key_file.error("expected the private key of the certificate in cert_file")
        }
        _ => key_file.error("expected a private key of a kind that TLS 1.3 uses: ECDSA, Ed25519 or RSA"),
    })?;
    Ok(Identity { key: Arc::new(key), expires_at })
}

/// The certificates of a file in PEM, at least one.
pub(super) fn certificates(file: &NamedFile, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(file.error("expected certificates in PEM")),
    }
}

fn expires_at(certificate: &CertificateDer<'_>) -> Option<i64> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(certificate.validity().not_after.timestamp())
}

/// The names in a certificate that are DNS names. They include the name of a node.
pub(super) fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let dns = |name: &GeneralName<'_>| match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        _ => None,
    };
    names.value.general_names.iter().filter_map(dns).collect()
}

/// The pin of the key of a certificate.
///
/// # Errors
/// If it is no certificate.
pub fn pin_of(certificate: &CertificateDer<'_>) -> Result<Pin, rustls::Error> {
    let key = ParsedCertificate::try_from(certificate)?.subject_public_key_info();
    Ok(Pin(Sha256::digest(&key).into()))
}

/// Shows the identity in force.
pub(super) struct Shown(pub(super) Arc<Watched<Identity>>);

impl fmt::Debug for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Shown")
    }
}

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current().key))
    }
}

impl ResolvesClientCert for Shown {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.current().key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}
