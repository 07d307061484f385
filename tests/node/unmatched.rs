//! Checks that no limit matches: the default of their domain, the metric, and warnings of rules that never match.

use std::path::Path;

use crate::node::{Node, wait_for};
use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
use proto::envoy::service::ratelimit::v3::rate_limit_response::{Code, rate_limit::Unit};
use proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient as EnvoyClient;
use proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use proto::tidegate::v1::CheckRequest;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;

const RULES: &str = "
version: 1
domains:
  - domain: open
    limits: [&user { name: per-user, match: { user: { present: true } }, per: [user], limit: 9, window: 1m }]
  - domain: shut
    default: deny
    limits: &limits
      - *user
      - { name: watched, match: { path: /shadow }, per: [], limit: 9, window: 1m, mode: shadow }
      - { name: resting, match: { path: /off }, per: [], limit: 9, window: 1m, mode: 'off' }
  - { domain: shut-each, default: deny, charge: each, limits: *limits }
";

fn start(rules: &Path, text: &str) -> Node {
    std::fs::write(rules, text).unwrap();
    Node::dev(&["--rules", rules.to_str().unwrap()])
}

fn unmatched(node: &Node, domain: &str) -> f64 {
    node.metric(&format!("tidegate_unmatched_total{{domain=\"{domain}\"}} "))
}

#[test]
fn the_default_of_a_domain_answers_checks_that_no_limit_matches() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(&folder.path().join("rules.yaml"), RULES);
    let series = ["open", "shut", "shut-each", "other"].map(|name| format!("unmatched_total{{domain=\"{name}\"}} 0"));
    wait_for("a series of each domain", || {
        let metrics = node.get("/metrics").body;
        series.iter().all(|line| metrics.contains(line)).then_some(())
    });
    let table = [
        ("open", r#""attributes":{"tier":"x"}"#, true, 0),
        ("unlisted", r#""attributes":{"user":"u"}"#, true, 0),
        ("shut", r#""attributes":{"user":"u"}"#, true, 1),
        ("shut", r#""attributes":{"usr":"u"}"#, false, 0),
        ("shut", r#""attributes":{}"#, false, 0),
        ("shut", r#""attributes":{"tier":"x"},"hits":0"#, false, 0),
        ("shut", r#""attributes":{"path":"/shadow"}"#, true, 1),
        ("shut", r#""attributes":{"path":"/off"}"#, false, 0),
        ("shut", r#""descriptors":[{"tier":"x"},{"user":"u"}]"#, true, 1),
        ("shut", r#""descriptors":[{"tier":"x"},{"tier":"y"}]"#, false, 0),
        ("shut-each", r#""descriptors":[{"tier":"x"},{"user":"u"}]"#, true, 1),
        ("shut-each", r#""descriptors":[{"tier":"x"},{"tier":"y"}]"#, false, 0),
    ];
    for (domain, check, allowed, limits) in table {
        let answer = node.check(&format!(r#"{{"domain":"{domain}",{check}}}"#));
        let json = answer.json();
        assert_eq!(answer.status, if allowed { 200 } else { 429 }, "{domain} {check}: {answer:?}");
        assert_eq!((&json["allowed"], json["limits"].as_array().unwrap().len()), (&allowed.into(), limits), "{check}");
        assert!(json["retry_after_ms"].is_null() && answer.header("retry-after").is_none(), "{answer:?}");
        let reason = (!allowed).then_some("no_limit_matches");
        assert_eq!((answer.header("x-tidegate-reason"), json["reason"].as_str()), (reason, reason), "{check}");
    }
    assert_eq!(["open", "shut", "shut-each", "other"].map(|domain| unmatched(&node, domain)), [1.0, 5.0, 1.0, 1.0]);
    let denied = node.metric("tidegate_checks_total{domain=\"shut\",outcome=\"refused\"} ");
    assert_eq!((denied, node.metric("rate_limiter_requests_total{status=\"blocked\"} ")), (5.0, 6.0));
}

#[test]
fn forward_auth_denies_what_no_limit_matches() {
    let folder = tempfile::tempdir().unwrap();
    let rules = "version: 1\ndomains: [{ domain: web, default: deny, limits: [{ name: l, match: { method: GET }, per: [], limit: 9, window: 1m }] }]\n";
    let node = start(&folder.path().join("rules.yaml"), rules);
    assert_eq!(node.get("/v1/authorize?domain=web").status, 200);
    let denied = node.send("PUT /v1/authorize?domain=web&deny_status=403 HTTP/1.1", "");
    assert_eq!((denied.status, denied.header("x-tidegate-reason")), (403, Some("no_limit_matches")));
}

#[tokio::test]
async fn grpc_calls_deny_what_no_limit_matches() {
    let folder = tempfile::tempdir().unwrap();
    let node = start(&folder.path().join("rules.yaml"), RULES);
    let mut native = RateLimitServiceClient::connect(format!("http://{}", node.grpc)).await.unwrap();
    let check = CheckRequest { domain: "shut".to_owned(), ..CheckRequest::default() };
    let answer = native.check(check).await.unwrap().into_inner();
    assert!(!answer.allowed && answer.limits.is_empty() && answer.retry_after_ms.is_none());

    let mut envoy = EnvoyClient::connect(format!("http://{}", node.grpc)).await.unwrap();
    let descriptor = |key: &str| RateLimitDescriptor {
        entries: vec![Entry { key: key.into(), value: "v".into() }],
        ..Default::default()
    };
    let mut ask = async |descriptors: Vec<RateLimitDescriptor>| -> RateLimitResponse {
        let request = RateLimitRequest { domain: "shut".to_owned(), descriptors, hits_addend: 1 };
        envoy.should_rate_limit(request).await.unwrap().into_inner()
    };
    let denied = ask(vec![descriptor("tier"), descriptor("path")]).await;
    assert_eq!(denied.overall_code(), Code::OverLimit);
    assert!(denied.statuses.iter().all(|status| status.code() == Code::OverLimit), "{denied:?}");
    let reason = denied.response_headers_to_add.iter().find(|header| header.key == "x-tidegate-reason");
    assert_eq!(reason.map(|header| header.value.as_str()), Some("no_limit_matches"));
    let matched = ask(vec![descriptor("tier"), descriptor("user")]).await;
    assert_eq!(matched.overall_code(), Code::Ok);
    assert!(matched.statuses.iter().all(|status| status.code() == Code::Ok), "{matched:?}");
    let own = RateLimitOverride { requests_per_unit: 5, unit: Unit::Minute.into(), unit_multiplier: None };
    let own = ask(vec![RateLimitDescriptor { limit: Some(own), ..descriptor("tier") }]).await;
    assert_eq!(own.overall_code(), Code::Ok, "the descriptor has a limit of its own");
}

#[test]
fn a_node_logs_the_warnings_of_each_file_that_it_reads() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    let limit = |name: &str, fields: &str| {
        format!("version: 1\ndomains: [{{ domain: d, limits: [{{ name: {name}, window: 1m, {fields} }}] }}]\n")
    };
    std::fs::write(&file, limit("a", "limit: 9, per: [user], match: { user: { present: false } }")).unwrap();
    let node = Node::serve(&file, "memory:", &[]);
    let warned = |text: &str| {
        node.log().lines().any(|line| line.contains("\"level\":\"WARN\"") && line.contains(text)).then_some(())
    };
    wait_for("the warning at start", || warned("limits[0].match.user: this limit never matches: per needs user"));
    std::fs::write(&file, limit("b", "limit: 2, per: [], match: { path: '/api/*' }")).unwrap();
    wait_for("the warning of the new file", || warned("is compared as it is: for a pattern"));
    assert_eq!(warned("on_store_failure"), None, "a store in memory has no outage");
}

#[test]
fn a_node_warns_of_limits_without_a_share_by_its_own_setting() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    let rules = "version: 1\ndomains: [{ domain: d, limits: [{ name: a, per: [], limit: 5, window: 1m }] }]\n";
    std::fs::write(&file, rules).unwrap();
    let checked = |min_holders: &str| {
        let settings = [("TIDEGATE_STORE__MIN_HOLDERS", min_holders)];
        let mut command = crate::node::serve_command(&file, "redis://127.0.0.1:1", &settings);
        let output = command.args(["--check", "--output", "json"]).output().unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        (output.status.code(), json["warnings"].clone(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, warnings, printed) = checked("6");
    assert_eq!((code, warnings.as_array().unwrap().len()), (Some(0), 1));
    assert!(printed.contains("warning: ") && printed.contains("the share of each holder is 5 ÷ 6"), "{printed}");
    assert_eq!(checked("5"), (Some(0), serde_json::json!([]), String::new()));
    let node =
        Node::spawn(crate::node::serve_command(&file, "redis://127.0.0.1:1", &[("TIDEGATE_STORE__MIN_HOLDERS", "6")]));
    wait_for("the warning", || node.log().contains("the share of each holder is 5 ÷ 6").then_some(()));
}
