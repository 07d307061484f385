//! Which files and pins TLS uses, as settings name them. Every build has these types, also one without TLS.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// A certificate with its chain, and its private key: `cert_file` and `key_file`, both in PEM.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityFiles {
    pub cert: PathBuf,
    pub key: PathBuf,
}

/// `tls: { cert_file, key_file, client_ca_file }`: what a server shows, and whom it lets in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerFiles {
    pub identity: IdentityFiles,
    /// With it, every client needs a certificate that one of these authorities signed.
    pub client_ca: Option<PathBuf>,
}

/// `{ ca_file, cert_file, key_file, pins }`: which servers a client trusts, and what it shows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ClientFiles {
    /// Without it, the authorities that this machine trusts.
    pub ca: Option<PathBuf>,
    pub identity: Option<IdentityFiles>,
    pub pins: Vec<Pin>,
}

/// `cluster.tls: { ca_file, cert_file, key_file, pins }`: nodes that show each other their certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MutualFiles {
    pub ca: PathBuf,
    pub identity: IdentityFiles,
    /// If there are any, a peer's key must be one of them, whichever side connected.
    pub pins: Vec<Pin>,
}

/// A public key that a peer may have: the SHA-256 of its SubjectPublicKeyInfo (RFC 7469), written `sha256/` and Base64.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Pin(pub [u8; 32]);

impl fmt::Display for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256/{}", STANDARD.encode(self.0))
    }
}

impl fmt::Debug for Pin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text is no pin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected sha256/ and the Base64 of 32 bytes, as `tidegate cluster ca` prints it")]
pub struct InvalidPin;

impl FromStr for Pin {
    type Err = InvalidPin;

    fn from_str(text: &str) -> Result<Self, InvalidPin> {
        let encoded = text.strip_prefix("sha256/").ok_or(InvalidPin)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| InvalidPin)?;
        bytes.try_into().map(Self).map_err(|_| InvalidPin)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_reads_as_it_is_written() {
        let pin = Pin(std::array::from_fn(|i| u8::try_from(i * 7).unwrap()));
        assert_eq!(pin.to_string().parse(), Ok(pin));
        for invalid in ["", "sha256/", "sha1/AAAA", "sha256/AAAA", &pin.to_string()[7..], &format!("{pin}x")] {
            assert_eq!(invalid.parse::<Pin>(), Err(InvalidPin), "{invalid}");
        }
    }
}
