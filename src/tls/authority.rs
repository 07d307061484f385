//! A certificate authority for a cluster: `tidegate cluster ca`.

use std::net::IpAddr;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber, date_time_ymd,
};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use super::identity::pin_of;
use super::settings::Pin;

/// The validity of an authority, in days.
pub const AUTHORITY_DAYS: u32 = 3650;
/// How much earlier than now a certificate begins: clocks differ.
const EARLIER: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// An authority that can sign.
pub struct Authority(Issuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub struct Issued {
    pub certificate: String,
    pub key: String,
    pub pin: Pin,
    /// In seconds since the epoch.
    pub expires_at: u64,
}

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum AuthorityError {
    /// The file of the key, or that of the certificate, has something else.
    #[error("expected a certificate authority and its private key, in PEM")]
    NoAuthority,
    #[error("expected a private key in PEM")]
    NoKey,
    #[error("{0}")]
    Rcgen(#[from] rcgen::Error),
    #[error("{0}")]
    Certificate(#[from] rustls::Error),
}

impl Authority {
    /// Makes an authority. Its common name is `name` and a part of its key's hash: a client that trusts two authorities
    /// of one name would take a certificate of the one for a forgery of the other. `now` is in seconds since the epoch.
    ///
    /// # Errors
    /// When the machine has no randomness.
    pub fn create(name: &str, now: u64) -> Result<(Self, Issued), AuthorityError> {
        let key = KeyPair::generate()?;
        let [a, b, c, d, ..]: [u8; 32] = Sha256::digest(key.public_key_raw()).into();
        let number = u32::from_be_bytes([a, b, c, d]);
        let mut parameters = parameters(&format!("{name} {number:08x}"), now, AUTHORITY_DAYS);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let issued = issued(&parameters.self_signed(&key)?, &key, now, AUTHORITY_DAYS)?;
        Ok((Self(Issuer::new(parameters, key)), issued))
    }

    /// The authority in two texts in PEM.
    ///
    /// # Errors
    /// When one of them is something else.
    pub fn open(certificate: &str, key: &str) -> Result<Self, AuthorityError> {
        // The library's errors could quote the key.
        let key = KeyPair::from_pem(key).map_err(|_| AuthorityError::NoAuthority)?;
        let issuer = Issuer::from_ca_cert_pem(certificate, key).map_err(|_| AuthorityError::NoAuthority)?;
        match issuer.key_usages().contains(&KeyUsagePurpose::KeyCertSign) {
            true => Ok(Self(issuer)),
            false => Err(AuthorityError::NoAuthority),
        }
    }

    /// Signs a certificate of the node `name`, for servers and clients. Its names are `name` and `hosts`, which are DNS
    /// names and addresses. `key` is the key in PEM that it is for; `None` makes one.
    ///
    /// # Errors
    /// When a name or the key cannot be used.
    pub fn issue(
        &self,
        name: &str,
        hosts: &[String],
        key: Option<&str>,
        now: u64,
        days: u32,
    ) -> Result<Issued, AuthorityError> {
        let key = match key {
            Some(pem) => KeyPair::from_pem(pem).map_err(|_| AuthorityError::NoKey)?,
            None => KeyPair::generate()?,
        };
        let mut parameters = parameters(name, now, days);
        for host in std::iter::once(name).chain(hosts.iter().map(String::as_str)) {
            let name = match host.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(host.try_into()?),
            };
            if !parameters.subject_alt_names.contains(&name) {
                parameters.subject_alt_names.push(name);
            }
        }
        // The library's own would be the same for two certificates of one key.
        let mut hash = Sha256::new_with_prefix(key.public_key_raw());
        hash.update(now.to_be_bytes());
        let mut serial: [u8; 32] = hash.finalize().into();
        serial[0] &= 0x7f;
        parameters.serial_number = Some(SerialNumber::from_slice(&serial[..16]));
        parameters.use_authority_key_identifier_extension = true;
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        parameters.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        issued(&parameters.signed_by(&key, &self.0)?, &key, now, days)
    }
}

fn parameters(name: &str, now: u64, days: u32) -> CertificateParams {
    let begin = date_time_ymd(1970, 1, 1) + Duration::from_secs(now);
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    let mut parameters = CertificateParams::default();
    parameters.not_before = begin - EARLIER;
    parameters.not_after = begin + DAY * days;
    parameters.distinguished_name = distinguished_name;
    parameters
}

fn issued(certificate: &rcgen::Certificate, key: &KeyPair, now: u64, days: u32) -> Result<Issued, AuthorityError> {
    Ok(Issued {
        certificate: certificate.pem(),
        key: key.serialize_pem(),
        pin: pin_of(certificate.der())?,
        expires_at: now.saturating_add((DAY * days).as_secs()),
    })
}

/// The pin of the first certificate of a text in PEM.
///
/// # Errors
/// When there is none.
pub fn pin_of_pem(pem: &str) -> Result<Pin, AuthorityError> {
    let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).map_err(|_| AuthorityError::NoAuthority)?;
    Ok(pin_of(&certificate)?)
}
