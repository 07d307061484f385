//! Runs the entry points of the fuzz targets on their saved corpora. `scripts/fuzz` searches for new inputs.

use std::path::Path;

/// Runs `entry` on every file of a corpus, whole and cut to half its length.
fn replay(target: &str, entry: fn(&[u8])) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut files = 0;
    for file in std::fs::read_dir(folder).unwrap() {
        let bytes = std::fs::read(file.unwrap().path()).unwrap();
        entry(&bytes);
        entry(&bytes[..bytes.len() / 2]);
        files += 1;
    }
    assert!(files >= 5, "{target}: {files} files");
}

#[test]
fn rule_files_of_the_corpus_hold() {
    replay("rule_file", crate::entries::rule_file);
}

#[test]
fn expressions_of_the_corpus_hold() {
    replay("expression", crate::entries::expression);
}

#[test]
fn clients_of_the_corpus_that_take_few_answers_hold() {
    replay("unread_answers", crate::entries::unread_answers);
}

#[test]
fn http_bodies_of_the_corpus_hold() {
    replay("http_body", crate::entries::http_body);
}

#[test]
fn headers_of_the_corpus_hold() {
    replay("forward_auth", crate::entries::forward_auth);
}

#[test]
fn envoy_requests_of_the_corpus_hold() {
    replay("envoy_request", crate::entries::envoy_request);
}

#[test]
fn native_streams_of_the_corpus_hold() {
    replay("native_stream", crate::entries::native_stream);
}

#[test]
fn store_replies_of_the_corpus_hold() {
    replay("store_reply", crate::entries::store_reply);
}
