//! Protects values at rest: with a checksum, or with AES-256-GCM when there are keys.

use std::fmt;
use std::sync::Arc;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Key, Nonce};
use sha2::{Digest, Sha256};

const CHECKED: u8 = 1;
const ENCRYPTED: u8 = 2;
const CHECKSUM_BYTES: usize = 16;
const FINGERPRINT_BYTES: usize = 4;
const NONCE_BYTES: usize = 12;
const KEY_BYTES: usize = 32;

/// The keys of `cluster.encryption_key_file`. The first seals, and all of them open.
#[derive(Clone)]
pub struct EncryptionKeys(Arc<[SealingKey]>);

struct SealingKey {
    cipher: Aes256Gcm,
    /// A part of the key's hash. It is stored with each value, so that a missing key is told from damage.
    fingerprint: [u8; FINGERPRINT_BYTES],
}

impl fmt::Debug for EncryptionKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.0.len())
    }
}

/// Why an encryption key file was rejected. It never shows a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    #[error("line {0}: expected a key of 32 bytes, as 64 hex digits or in base64")]
    Line(usize),
    #[error("expected at least one key")]
    Empty,
}

impl EncryptionKeys {
    /// Reads the text of a key file: one key on each line, in hex or base64. Empty lines and lines that begin with `#`
    /// are skipped.
    ///
    /// # Errors
    /// Names the first line that is no key.
    pub fn parse(text: &str) -> Result<Self, KeyFileError> {
        let mut keys = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let bytes = hex(line).or_else(|| base64(line)).filter(|bytes| bytes.len() == KEY_BYTES);
            let bytes = bytes.ok_or(KeyFileError::Line(index + 1))?;
            let mut fingerprint = [0; FINGERPRINT_BYTES];
            let hash = Sha256::new().chain_update(b"tidegate key fingerprint").chain_update(&bytes).finalize();
            fingerprint.copy_from_slice(&hash[..FINGERPRINT_BYTES]);
            keys.push(SealingKey { cipher: Aes256Gcm::new(Key::<Aes256Gcm>::from_slice(&bytes)), fingerprint });
        }
        if keys.is_empty() { Err(KeyFileError::Empty) } else { Ok(Self(keys.into())) }
    }
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let even = text.len() == 2 * KEY_BYTES && text.is_ascii();
    even.then(|| (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok()).collect())?
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(KEY_BYTES);
    let (mut buffer, mut bits) = (0_u32, 0);
    for symbol in text.trim_end_matches('=').bytes() {
        let value = match symbol {
            b'A'..=b'Z' => symbol - b'A',
            b'a'..=b'z' => symbol - b'a' + 26,
            b'0'..=b'9' => symbol - b'0' + 52,
            b'+' | b'-' => 62,
            b'/' | b'_' => 63,
            _ => return None,
        };
        buffer = (buffer << 6 | u32::from(value)) & 0x3fff;
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            bytes.push((buffer >> bits) as u8);
        }
    }
    Some(bytes)
}

/// Why a stored value cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("is damaged")]
    Damaged,
    #[error("is encrypted with the key {0}, which cluster.encryption_key_file does not list")]
    UnknownKey(String),
    #[error("is encrypted, and cluster.encryption_key_file is not set")]
    Encrypted,
    #[error("is not encrypted, but cluster.encryption_key_file is set")]
    NotEncrypted,
}

/// Seals values for a place, and opens them there only.
#[derive(Clone, Debug)]
pub enum Seal {
    /// With a checksum. It finds damage, and hides nothing.
    Checksum,
    /// With AES-256-GCM, a random nonce for each value, and the place as associated data.
    Encryption(EncryptionKeys),
}

impl Seal {
    pub fn new(keys: Option<EncryptionKeys>) -> Self {
        keys.map_or(Self::Checksum, Self::Encryption)
    }

    /// Seals `value` for `place`.
    ///
    /// # Errors
    /// Returns an error if the operating system gives no random bytes, or if the value is longer than 64 GiB.
    pub fn seal(&self, place: &str, value: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Self::Checksum => {
                let mut sealed = vec![CHECKED];
                sealed.extend_from_slice(&checksum(place, value));
                sealed.extend_from_slice(value);
                Ok(sealed)
            }
            Self::Encryption(EncryptionKeys(keys)) => {
                let key = keys.first().ok_or("no encryption key")?;
                let mut nonce = [0; NONCE_BYTES];
                #[expect(clippy::disallowed_methods, reason = "each sealed value needs a nonce that never repeats")]
                getrandom::fill(&mut nonce).map_err(|error| error.to_string())?;
                let payload = Payload { msg: value, aad: place.as_bytes() };
                let text = key.cipher.encrypt(Nonce::from_slice(&nonce), payload);
                let text = text.map_err(|_| "a value is too long to encrypt".to_owned())?;
                Ok([&[ENCRYPTED][..], &key.fingerprint, &nonce, &text].concat())
            }
        }
    }

    /// Opens what was sealed for `place`.
    ///
    /// # Errors
    /// Says whether the value is damaged or a key is missing.
    pub fn open(&self, place: &str, sealed: &[u8]) -> Result<Vec<u8>, Unreadable> {
        let (kind, rest) = sealed.split_first().ok_or(Unreadable::Damaged)?;
        match (*kind, self) {
            (CHECKED, Self::Checksum) => {
                let (sum, value) = rest.split_at_checked(CHECKSUM_BYTES).ok_or(Unreadable::Damaged)?;
                if sum == checksum(place, value) { Ok(value.to_vec()) } else { Err(Unreadable::Damaged) }
            }
            (ENCRYPTED, Self::Encryption(EncryptionKeys(keys))) => {
                let (fingerprint, rest) = rest.split_at_checked(FINGERPRINT_BYTES).ok_or(Unreadable::Damaged)?;
                let (nonce, text) = rest.split_at_checked(NONCE_BYTES).ok_or(Unreadable::Damaged)?;
                let mut missing = true;
                for key in keys.iter().filter(|key| key.fingerprint == fingerprint) {
                    missing = false;
                    let payload = Payload { msg: text, aad: place.as_bytes() };
                    if let Ok(value) = key.cipher.decrypt(Nonce::from_slice(nonce), payload) {
                        return Ok(value);
                    }
                }
                let name = fingerprint.iter().map(|byte| format!("{byte:02x}")).collect();
                Err(if missing { Unreadable::UnknownKey(name) } else { Unreadable::Damaged })
            }
            (CHECKED, Self::Encryption(_)) => Err(Unreadable::NotEncrypted),
            (ENCRYPTED, Self::Checksum) => Err(Unreadable::Encrypted),
            _ => Err(Unreadable::Damaged),
        }
    }

    /// False if the value was sealed with a key that is no longer the first.
    pub fn is_current(&self, sealed: &[u8]) -> bool {
        match self {
            Self::Checksum => true,
            Self::Encryption(EncryptionKeys(keys)) => {
                keys.first().is_some_and(|key| sealed.get(1..=FINGERPRINT_BYTES) == Some(&key.fingerprint[..]))
            }
        }
    }
}

fn checksum(place: &str, value: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = Sha256::new().chain_update(place).chain_update([0]).chain_update(value).finalize();
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&hash[..CHECKSUM_BYTES]);
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
    const NEW: &str = "AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=";

    fn keys(lines: &[&str]) -> Seal {
        Seal::new(Some(EncryptionKeys::parse(&lines.join("\n")).unwrap()))
    }

    #[test]
    fn the_first_key_seals_and_all_of_them_open() {
        let old = keys(&[OLD]).seal("log 1", b"secret").unwrap();
        assert!(!old.windows(6).any(|part| part == b"secret"));
        let both = keys(&["# rotated", NEW, "", OLD]);
        assert_eq!(both.open("log 1", &old).unwrap(), b"secret");
        assert!(!both.is_current(&old));
        let new = both.seal("log 1", b"secret").unwrap();
        assert!(both.is_current(&new));
        assert!(matches!(keys(&[OLD]).open("log 1", &new), Err(Unreadable::UnknownKey(_))));
        assert_ne!(new, both.seal("log 1", b"secret").unwrap(), "a nonce repeats");
    }

    #[test]
    fn a_value_opens_only_undamaged_and_in_its_place() {
        for seal in [Seal::Checksum, keys(&[OLD])] {
            let sealed = seal.seal("log 1", b"value").unwrap();
            assert_eq!(seal.open("log 1", &sealed).unwrap(), b"value");
            assert_eq!(seal.open("log 2", &sealed), Err(Unreadable::Damaged));
            for at in 0..sealed.len() {
                let mut damaged = sealed.clone();
                damaged[at] ^= 1;
                assert!(seal.open("log 1", &damaged).is_err(), "byte {at} of {seal:?}");
                assert!(seal.open("log 1", &sealed[..at]).is_err(), "cut at {at} of {seal:?}");
            }
        }
        let plain = Seal::Checksum.seal("vote", b"").unwrap();
        assert_eq!(keys(&[OLD]).open("vote", &plain), Err(Unreadable::NotEncrypted));
        assert_eq!(Seal::Checksum.open("vote", &keys(&[OLD]).seal("vote", b"").unwrap()), Err(Unreadable::Encrypted));
    }

    #[test]
    fn a_key_file_is_read_in_hex_and_base64_and_errors_show_no_key() {
        assert_eq!(EncryptionKeys::parse("# none\n").unwrap_err(), KeyFileError::Empty);
        let error = EncryptionKeys::parse(&format!("{OLD}\nsecretsecret")).unwrap_err();
        assert_eq!(error, KeyFileError::Line(2));
        assert!(!format!("{error} {:?}", EncryptionKeys::parse(OLD).unwrap()).contains("001122"));
    }
}
