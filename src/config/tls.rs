//! The sections of the settings that name certificates or tokens: `tls`, `cluster.tls`, `postgres.tls`, `auth`.

use std::path::PathBuf;

use super::values::section;
use crate::tls::settings::{ClientFiles, IdentityFiles, InvalidPin, MutualFiles, Pin, ServerFiles};
use crate::yaml::decode::{Errors, Fields, list, string};
use crate::yaml::tree::Node;
use limiter::rules::Path;

/// The most pins of one section.
const MAX_PINS: usize = 1024;

/// Reads `{ cert_file, key_file, client_ca_file }`. A wrong section reads as `None`, with its errors.
pub fn server(node: &Node, path: &Path, errors: &mut Errors) -> Option<ServerFiles> {
    section(Some(node), path, errors, |fields, path, errors| {
        let cert = required(fields, path, "cert_file", errors);
        let key = required(fields, path, "key_file", errors);
        let client_ca = optional(fields, path, "client_ca_file", errors);
        Some(ServerFiles { identity: IdentityFiles { cert: cert?, key: key? }, client_ca })
    })
}

/// Reads `{ tokens_file }`. A wrong section reads as `None`, with its errors.
pub fn tokens_file(node: &Node, path: &Path, errors: &mut Errors) -> Option<PathBuf> {
    section(Some(node), path, errors, |fields, path, errors| required(fields, path, "tokens_file", errors))
}

/// Reads `{ ca_file, cert_file, key_file, pins }`, of which all may be absent.
pub fn client(node: &Node, path: &Path, errors: &mut Errors) -> ClientFiles {
    section(Some(node), path, errors, |fields, path, errors| {
        let ca = optional(fields, path, "ca_file", errors);
        let cert = optional(fields, path, "cert_file", errors);
        let key = optional(fields, path, "key_file", errors);
        let pins = pins(fields, path, errors);
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => Some(IdentityFiles { cert, key }),
            (Some(_), None) => {
                errors.add(&path.field("key_file"), "expected the private key of cert_file");
                None
            }
            (None, Some(_)) => {
                errors.add(&path.field("cert_file"), "expected the certificate of key_file");
                None
            }
            (None, None) => None,
        };
        ClientFiles { ca, identity, pins }
    })
}

/// Reads `{ ca_file, cert_file, key_file, pins }`, whose files are all required. A wrong section reads as `None`, with
/// its errors.
pub fn mutual(node: &Node, path: &Path, errors: &mut Errors) -> Option<MutualFiles> {
    section(Some(node), path, errors, |fields, path, errors| {
        let ca = required(fields, path, "ca_file", errors);
        let cert = required(fields, path, "cert_file", errors);
        let key = required(fields, path, "key_file", errors);
        let pins = pins(fields, path, errors);
        Some(MutualFiles { ca: ca?, identity: IdentityFiles { cert: cert?, key: key? }, pins })
    })
}

fn required(fields: &mut Fields<'_>, path: &Path, field: &'static str, errors: &mut Errors) -> Option<PathBuf> {
    let node = fields.require(field, errors)?;
    file(node, &path.field(field), errors)
}

fn optional(fields: &mut Fields<'_>, path: &Path, field: &'static str, errors: &mut Errors) -> Option<PathBuf> {
    let node = fields.get(field)?;
    file(node, &path.field(field), errors)
}

fn file(node: &Node, path: &Path, errors: &mut Errors) -> Option<PathBuf> {
    let name = string(node, path, errors)?;
    if name.is_empty() {
        errors.add(path, "expected the name of a file in PEM");
        return None;
    }
    Some(name.into())
}

fn pins(fields: &mut Fields<'_>, path: &Path, errors: &mut Errors) -> Vec<Pin> {
    let (Some(node), path) = (fields.get("pins"), path.field("pins")) else { return Vec::new() };
    let pins = list(node, &path, errors, |node, path, errors| {
        let pin = string(node, path, errors)?.parse();
        pin.map_err(|invalid: InvalidPin| errors.add(path, invalid.to_string())).ok()
    });
    if pins.len() > MAX_PINS {
        errors.add(&path, format!("expected at most {MAX_PINS} pins"));
    }
    pins
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `read` reads in `text`, and its errors.
    fn read<T>(text: &str, read: fn(&Node, &Path, &mut Errors) -> T) -> (T, Vec<String>) {
        let (node, mut errors) = (Node::parse(text).unwrap(), Errors::default());
        let value = read(&node, &Path::default().field("tls"), &mut errors);
        (value, errors.0.into_iter().map(|error| format!("{}: {}", error.path, error.message)).collect())
    }

    const PIN: &str = "sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";

    #[test]
    fn sections_read_as_they_are_written() {
        let identity = || IdentityFiles { cert: "c".into(), key: "k".into() };
        let (read_server, none) = read("{ cert_file: c, key_file: k, client_ca_file: a }", server);
        assert_eq!(read_server, Some(ServerFiles { identity: identity(), client_ca: Some("a".into()) }));
        assert!(none.is_empty());
        let text = format!("{{ ca_file: a, cert_file: c, key_file: k, pins: ['{PIN}'] }}");
        let pins = vec![Pin([0; 32])];
        let expected = ClientFiles { ca: Some("a".into()), identity: Some(identity()), pins: pins.clone() };
        assert_eq!(read(&text, client).0, expected);
        assert_eq!(read(&text, mutual).0, Some(MutualFiles { ca: "a".into(), identity: identity(), pins }));
        assert_eq!(read("{}", client), (ClientFiles::default(), Vec::new()));
    }

    #[test]
    fn errors_name_the_field_and_what_was_expected() {
        let errors = |text: &str, as_mutual: bool| match as_mutual {
            true => read(text, mutual).1,
            false => read(text, client).1,
        };
        for (text, as_mutual, expected) in [
            ("{ ca_file: a, cert_file: c }", true, "tls.key_file: "),
            ("{ cert_file: c, key_file: k }", true, "tls.ca_file: "),
            ("{ cert_file: c }", false, "tls.key_file: expected the private key of cert_file"),
            ("{ key_file: c }", false, "tls.cert_file: expected the certificate of key_file"),
            ("{ ca_file: '' }", false, "tls.ca_file: expected the name of a file"),
            ("{ pins: [sha256/AAAA] }", false, "tls.pins[0]: expected sha256/ and the Base64 of 32 bytes"),
            ("{ pins: x }", false, "tls.pins: "),
            ("{ ca: a }", false, "tls.ca: "),
        ] {
            let found = errors(text, as_mutual);
            assert!(found.iter().any(|error| error.starts_with(expected)), "{text}: {found:?}");
        }
        let found = read("{ key_file: k }", server).1;
        assert!(found.iter().any(|error| error.starts_with("tls.cert_file: ")), "{found:?}");
    }
}
