//! What clients are told of a limit: pairs that fit together, and resets that say when asking again helps.

use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use proto::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient as EnvoyClient;
use proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};

use crate::node::{Node, Response};

const RULES: &str = "
version: 1
domains:
  - domain: d
    limits:
      - { name: fixed, match: { kind: fixed }, per: [kind], limit: 2, window: 1h, algorithm: fixed_window }
      - { name: sliding, match: { kind: sliding }, per: [kind], limit: 2, window: 1h }
      - { name: rolling, match: { kind: rolling }, per: [kind], limit: 2, window: 1h, algorithm: rolling_window }
      - { name: bucket, match: { kind: bucket }, per: [kind], limit: 2, window: 1h, algorithm: token_bucket }
      - { name: burst, match: { kind: burst }, per: [kind], limit: 10, window: 1h, burst: 20, algorithm: token_bucket }
      - { name: odd, match: { kind: odd }, per: [kind], limit: 7, window: 1s, burst: 10, algorithm: token_bucket }
      - { name: small-burst, match: { kind: small }, per: [kind], limit: 60, window: 1h, burst: 2, algorithm: token_bucket }
      - { name: zero, match: { kind: zero }, per: [kind], limit: 0, window: 1h }
      - { name: watched, match: { kind: watched }, per: [kind], limit: 0, window: 1h, mode: shadow }
      - { name: also-watched, match: { kind: watched }, per: [kind], limit: 1, window: 1h, mode: shadow }
      - { name: slow, match: { kind: two }, per: [kind], limit: 1, window: 1d, algorithm: fixed_window }
      - { name: wide, match: { kind: two }, per: [kind], limit: 100, window: 10s, algorithm: fixed_window }
";

fn start_node() -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, RULES).unwrap();
    (Node::dev(&["--rules", rules.to_str().unwrap()]), folder)
}

fn check(node: &Node, kind: &str) -> Response {
    node.check(&format!(r#"{{"domain":"d","attributes":{{"kind":"{kind}"}}}}"#))
}

async fn ask_as_envoy(node: &Node, kind: &str) -> RateLimitResponse {
    let mut client = EnvoyClient::connect(format!("http://{}", node.grpc)).await.unwrap();
    let entries = vec![Entry { key: b"kind".to_vec(), value: kind.into() }];
    let descriptors = vec![RateLimitDescriptor { entries, ..RateLimitDescriptor::default() }];
    let request = RateLimitRequest { domain: "d".to_owned(), descriptors, hits_addend: 0 };
    client.should_rate_limit(request).await.unwrap().into_inner()
}

/// The numbers of a parameter in a list of limits.
fn parameters(header: &str, name: &str) -> Vec<u64> {
    let all = header.split(',').flat_map(|limit| limit.split(';'));
    all.filter_map(|p| p.strip_prefix(name)?.strip_prefix('=')?.parse().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_denial_every_reset_says_when_asking_again_helps() {
    let (node, _folder) = start_node();
    for kind in ["fixed", "sliding", "rolling", "bucket", "small", "two"] {
        while check(&node, kind).status == 200 {}
        let denied = check(&node, kind);
        let number = |name: &str| denied.header(name).unwrap().parse::<u64>().unwrap();
        let wait = number("retry-after");
        assert_eq!(number("x-ratelimit-reset"), wait, "{kind}: {denied:?}");
        let body = denied.json();
        let resets = parameters(denied.header("ratelimit").unwrap(), "t");
        let limits = body["limits"].as_array().unwrap();
        assert!(!limits.is_empty() && resets.len() == limits.len(), "{kind}: {denied:?}");
        for (limit, reset) in limits.iter().zip(resets) {
            // A limit that did not deny has a reset of its own.
            let own = limit["reset_ms"].as_u64().unwrap().div_ceil(1000);
            assert_eq!(reset, if limit["refused"] == true { wait } else { own }, "{kind}: {denied:?}");
        }
        let limit = body["limits"].as_array().unwrap().iter().find(|l| l["refused"] == true).unwrap();
        let full = limit["reset_ms"].as_u64().unwrap().div_ceil(1000);
        assert!(full >= wait, "{kind}: `reset_ms` is when the whole limit is free: {denied:?}");

        let answer = ask_as_envoy(&node, kind).await;
        let header = |name: &str| answer.response_headers_to_add.iter().find(|h| h.key == name);
        let wait: i64 = header("retry-after").unwrap().value.parse().unwrap();
        let shown = answer.statuses[0].duration_until_reset.unwrap();
        assert_eq!((shown.seconds, shown.nanos), (wait, 0), "{kind}: {answer:?}");
    }
    let bucket = check(&node, "bucket");
    let full = bucket.json()["limits"][0]["reset_ms"].as_u64().unwrap().div_ceil(1000);
    let reset: u64 = bucket.header("x-ratelimit-reset").unwrap().parse().unwrap();
    assert!(full > reset, "the bucket is full later than it has one hit: {bucket:?}");
}

#[test]
fn a_limit_that_is_whole_again_has_no_reset() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    let limits = "      - { name: five, per: [], limit: 5, window: 1h }\n      - { name: ten, per: [], limit: 10, window: 1h }\n";
    std::fs::write(&rules, format!("version: 1\ndomains:\n  - domain: d\n    limits:\n{limits}")).unwrap();
    let node = Node::dev(&["--rules", rules.to_str().unwrap()]);
    let denied = node.check(r#"{"domain":"d","hits":9}"#);
    assert_eq!(denied.status, 429);
    let ten = &denied.json()["limits"][1];
    assert_eq!((&ten["remaining"], &ten["reset_ms"]), (&10.into(), &0.into()), "its hits went back: {denied:?}");
}

#[test]
fn without_a_denial_the_reset_says_when_the_whole_limit_is_free() {
    let (node, _folder) = start_node();
    for kind in ["fixed", "sliding", "rolling", "bucket", "burst", "small"] {
        let answer = check(&node, kind);
        let full = answer.json()["limits"][0]["reset_ms"].as_u64().unwrap().div_ceil(1000);
        assert!(full > 0);
        assert_eq!(answer.header("x-ratelimit-reset"), Some(full.to_string().as_str()), "{kind}: {answer:?}");
        assert_eq!(parameters(answer.header("ratelimit").unwrap(), "t"), [full], "{kind}: {answer:?}");
        assert_eq!(answer.header("retry-after"), None);
    }
    let never = check(&node, "zero");
    assert_eq!((never.status, never.header("retry-after")), (429, None), "waiting does not help: {never:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_and_what_remains_of_it_fit_together() {
    let (node, _folder) = start_node();
    let table = [
        ("burst", 20, 19, 7_200_000, "q=20;w=7200", (Unit::Hour, Some(2))),
        ("odd", 10, 9, 1429, "q=10;w=2", (Unit::Unknown, None)),
        ("small", 60, 1, 3_600_000, "q=60;w=3600", (Unit::Hour, None)),
        ("bucket", 2, 1, 3_600_000, "q=2;w=3600", (Unit::Hour, None)),
    ];
    for (kind, limit, remaining, window_ms, policy, units) in table {
        let answer = check(&node, kind);
        let body = &answer.json()["limits"][0];
        let shown = ["limit", "remaining", "window_ms"].map(|name| body[name].as_u64().unwrap());
        assert_eq!(shown, [limit, remaining, window_ms], "{kind}: {answer:?}");
        let shown = ["x-ratelimit-limit", "x-ratelimit-remaining"].map(|name| answer.header(name).unwrap());
        assert_eq!(shown, [limit.to_string(), remaining.to_string()], "{kind}");
        assert!(answer.header("ratelimit-policy").unwrap().ends_with(policy), "{kind}: {answer:?}");
        assert_eq!(parameters(answer.header("ratelimit").unwrap(), "r"), [remaining], "{kind}");

        let answer = ask_as_envoy(&node, kind).await;
        let status = &answer.statuses[0];
        let current = status.current_limit.as_ref().unwrap();
        assert_eq!(u64::from(current.requests_per_unit), limit, "{kind}: {answer:?}");
        assert!(status.limit_remaining <= current.requests_per_unit, "{kind}: {answer:?}");
        assert_eq!((current.unit(), current.unit_multiplier), units, "{kind}: {answer:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_in_mode_shadow_is_named_in_a_header() {
    let (node, _folder) = start_node();
    let shadow = |answer: RateLimitResponse| {
        let header = answer.response_headers_to_add.into_iter().find(|h| h.key == "x-tidegate-shadow");
        (answer.overall_code, header.map(|header| header.value))
    };
    let ok = 1;
    assert_eq!(shadow(ask_as_envoy(&node, "fixed").await), (ok, None));
    assert_eq!(shadow(ask_as_envoy(&node, "watched").await), (ok, Some("watched".to_owned())));
    assert_eq!(shadow(ask_as_envoy(&node, "watched").await), (ok, Some("watched, also-watched".to_owned())));
    let answer = check(&node, "watched");
    assert_eq!((answer.status, answer.header("x-tidegate-shadow")), (200, Some("watched, also-watched")));
    assert_eq!(check(&node, "sliding").header("x-tidegate-shadow"), None);
}
