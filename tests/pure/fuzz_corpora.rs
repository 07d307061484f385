//! What the fuzz targets found worth keeping, tried again: `scripts/fuzz` looks for more.

use std::path::Path;

/// Tries every file of a corpus, and every one cut short.
fn replay(target: &str, entry: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut tried = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        entry(&bytes);
        entry(&bytes[..bytes.len() / 2]);
        tried += 1;
    }
    assert!(tried >= 5, "{target}: {tried} files");
}

#[test]
fn rule_files() {
    replay("rule_file", crate::entries::rule_file);
}

#[test]
fn http_bodies() {
    replay("http_body", crate::entries::http_body);
}

#[test]
fn envoy_requests() {
    replay("envoy_request", crate::entries::envoy_request);
}

#[test]
fn native_streams() {
    replay("native_stream", crate::entries::native_stream);
}

#[test]
fn store_replies() {
    replay("store_reply", crate::entries::store_reply);
}
