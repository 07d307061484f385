//! Which `response_headers` a limit may add to a denial.
//!
//! A denial has headers of its own, and gateways add theirs. A rule that set one of them could break the response: its
//! framing, its meaning, or the client's view of the limits.

use std::collections::{BTreeMap, HashSet};

use super::path::Path;
use super::problem::Problems;

/// The most headers of one limit.
const MAX_HEADERS: usize = 16;
/// The most bytes of all names and values of one limit. Gateways bound the headers of a response: nginx at 4 KiB.
const MAX_BYTES: usize = 2048;

/// Names that rules cannot set, and why.
const RESERVED: [(&[&str], &str); 4] = [
    (
        &[
            "connection",
            "http2-settings",
            "keep-alive",
            "proxy-authenticate",
            "proxy-authentication-info",
            "proxy-authorization",
            "proxy-connection",
            "te",
            "trailer",
            "trailers",
            "transfer-encoding",
            "upgrade",
        ],
        "it concerns one connection (RFC 9110, section 7.6.1)",
    ),
    (
        &[
            "content-digest",
            "content-encoding",
            "content-length",
            "content-md5",
            "content-range",
            "content-type",
            "digest",
            "repr-digest",
        ],
        "it describes the body, which the node or the gateway writes",
    ),
    (&["age", "date", "server", "via"], "whoever sends the response sets it"),
    (&["retry-after", "x-request-id"], "the node sets it"),
];

/// Beginnings of names that rules cannot set, and why.
const RESERVED_PREFIXES: [(&str, &str); 7] = [
    ("ratelimit", "the node sets it"),
    ("x-ratelimit-", "the node sets it"),
    ("x-tidegate-", "the node sets it"),
    ("grpc-", "a client of gRPC would take it for the result of its call"),
    // Nginx answers with another page, and status 200, if a denial of forward-auth has X-Accel-Redirect.
    ("x-accel-", "nginx acts on it"),
    ("x-sendfile", "a server in front acts on it"),
    ("x-envoy-", "Envoy acts on it"),
];

/// Why rules cannot set a header of this name, which is in lower case.
fn reserved(name: &str) -> Option<&'static str> {
    let whole = RESERVED.iter().find(|(names, _)| names.contains(&name)).map(|(_, why)| *why);
    whole.or_else(|| RESERVED_PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix)).map(|(_, why)| *why))
}

pub fn check_headers(headers: &BTreeMap<String, String>, path: &Path, found: &mut Problems) {
    let bytes: usize = headers.iter().map(|(name, value)| name.len() + value.len()).sum();
    let fits = headers.len() <= MAX_HEADERS && bytes <= MAX_BYTES;
    found.expect(fits, path, &format!("expected at most {MAX_HEADERS} headers with {MAX_BYTES} bytes in all"));
    let mut seen = HashSet::new();
    for (name, value) in headers {
        let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
        let path = path.field(name);
        found.expect(!name.is_empty() && name.bytes().all(token), &path, "expected an HTTP header name");
        let lower = name.to_ascii_lowercase();
        if let Some(why) = reserved(&lower) {
            found.expect(false, &path, &format!("expected a header that rules may set: {why}"));
        }
        found.expect(seen.insert(lower), &path, "expected each header once: case does not matter in their names");
        let printable = value.bytes().all(|b| (0x20..0x7f).contains(&b));
        found.expect(printable, &path, "expected a header value of printable ASCII");
    }
}
