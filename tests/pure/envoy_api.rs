//! Tidegate's copy of Envoy's API, beside the newest API that was seen: a field that is unknown here could reverse the
//! meaning of a call. `tests/gateways/envoy_api.txt` is the API of the Envoy that the tests of the gateways run.

use std::collections::{BTreeMap, BTreeSet};

use prost::Message as _;
use prost_types::FileDescriptorSet;

use crate::api_lines::lines;

const NEWEST: &str = include_str!("../gateways/envoy_api.txt");
const DOCS: &str = include_str!("../../docs/gateways/envoy.md");

#[test]
fn every_field_of_the_newest_api_is_known() {
    let ours = FileDescriptorSet::decode(proto::DESCRIPTORS).unwrap();
    let ours: BTreeSet<String> = ours.file.iter().flat_map(lines).collect();
    let unknown: Vec<&str> = NEWEST.lines().filter(|line| !ours.contains(*line)).collect();
    assert_eq!(unknown, Vec::<&str>::new(), "proto/envoy/ lacks these, or they differ there");
    assert!(NEWEST.contains("RateLimitDescriptor.is_negative_hits = 4 bool"));
}

/// The fields of a message, each with its path from `place` and the first word that the documents say of it.
fn documented(message: &str, place: &str, rows: &BTreeMap<&str, &str>, missing: &mut Vec<String>) {
    let start = format!("{message}.");
    for line in NEWEST.lines() {
        let Some((field, kind)) = line.strip_prefix(&start).and_then(|rest| rest.split_once(" = ")) else { continue };
        // The fields of nested messages, and values of enums.
        if field.contains('.') || !kind.contains(' ') {
            continue;
        }
        let path = format!("{place}{field}");
        match rows.get(path.as_str()) {
            Some(&"ignored" | &"absent") => {}
            Some(&"read" | &"answered" | &"rejected") => {
                let kind = kind.rsplit(' ').next().unwrap_or_default();
                documented(kind, &format!("{path}."), rows, missing);
            }
            _ => missing.push(path),
        }
    }
}

#[test]
fn the_documents_say_what_happens_to_every_field() {
    let rows: BTreeMap<&str, &str> = DOCS
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
        .map(|(path, text)| (path, text.split(|c: char| !c.is_alphabetic()).next().unwrap_or_default()))
        .collect();
    let mut missing = Vec::new();
    for message in ["RateLimitRequest", "RateLimitResponse"] {
        documented(&format!("envoy.service.ratelimit.v3.{message}"), "", &rows, &mut missing);
    }
    assert_eq!(
        missing,
        Vec::<String>::new(),
        "docs/gateways/envoy.md must say that they are read, answered or ignored"
    );
    assert!(rows.contains_key("descriptors.limit.unit_multiplier") && rows.contains_key("statuses.current_limit.unit"));
}
