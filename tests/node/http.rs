//! The HTTP front end of a running node.

use crate::node::Node;

const CHECK: &str = "POST /v1/check HTTP/1.1";

#[test]
fn every_error_of_an_invalid_request_is_reported() {
    let node = Node::dev(&[]);
    let answer = node.check(r#"{"hits":-1,"attributes":{"a/b":5},"more":1}"#);
    assert_eq!((answer.status, answer.header("content-type")), (400, Some("application/problem+json")));
    for expected in ["\"/domain\"", "\"/hits\"", "\"/attributes/a~1b\"", "\"/more\"", "quote it"] {
        assert!(answer.body.contains(expected), "{expected} is missing in {answer:?}");
    }
    let long = "x".repeat(4096);
    assert_eq!(node.check(&format!(r#"{{"domain":"demo","attributes":{{"user":"{long}"}}}}"#)).status, 200);
    assert_eq!(node.check(&format!(r#"{{"domain":"demo","attributes":{{"user":"{long}x"}}}}"#)).status, 400);
    assert_eq!(node.check(r#"{"domain":"unknown"}"#).status, 200, "a check that no limit matches is allowed");
    assert_eq!(node.check("{").status, 400);
    assert_eq!(node.send("POST /v1/check?status=201 HTTP/1.1", r#"{"domain":"d"}"#).status, 400);
    assert_eq!(node.send("POST /v1/check?stats=200 HTTP/1.1", r#"{"domain":"d"}"#).status, 400);
}

#[test]
fn a_repeated_key_is_an_error_that_names_it_and_charges_nothing() {
    let node = Node::dev(&[]);
    let cases = [
        (r#"{"domain":"demo","domain":"demo","attributes":{"user":"r"}}"#, "/domain"),
        (r#"{"domain":"demo","attributes":{"user":"r","user":"other"}}"#, "/attributes/user"),
        (r#"{"domain":"demo","descriptors":[{"user":"r","user":"other"}]}"#, "/descriptors/0/user"),
        (r#"{"domain":"demo","attributes":{"user":"r"},"hits":1,"hits":1}"#, "/hits"),
    ];
    for (body, pointer) in cases {
        let answer = node.check(body);
        assert_eq!((answer.status, &answer.json()["errors"][0]["pointer"]), (400, &pointer.into()), "{answer:?}");
    }
    let first = node.check(r#"{"domain":"demo","attributes":{"user":"r"}}"#);
    assert_eq!(first.header("x-ratelimit-remaining"), Some("4"));
}

#[test]
fn http_errors_are_problem_documents() {
    let node = Node::dev(&[]);
    let cases = [
        ("GET /nothing HTTP/1.1", "", 404),
        ("GET /v1/check HTTP/1.1", "", 405),
        ("POST /metrics HTTP/1.1", "", 405),
        ("POST /v1/check HTTP/1.1\r\ncontent-type: text/xml", "{}", 415),
    ];
    let large = " ".repeat(70_000);
    for (head, body, status) in cases.into_iter().chain([(CHECK, large.as_str(), 413)]) {
        let answer = node.send(head, body);
        assert_eq!(answer.status, status, "{head}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{head}");
        assert_eq!(answer.json()["status"], status);
        assert_eq!(answer.header("x-request-id").map(str::len), Some(32), "{head}");
    }
    let with_id = node.send("GET /nothing HTTP/1.1\r\nx-request-id: mine", "");
    assert_eq!(with_id.header("x-request-id"), Some("mine"));
    let metrics = node.get("/metrics").body;
    assert!(metrics.contains("rate_limiter_requests_total{status=\"error\"} 6"), "{metrics}");
    let form_type = format!("{CHECK}\r\ncontent-type: application/x-www-form-urlencoded");
    assert_eq!(node.send(&form_type, r#"{"domain":"demo"}"#).status, 200);
}

#[test]
fn headers_show_the_remaining_hits_and_when_to_retry() {
    let node = Node::dev(&[]);
    let check = || node.check(r#"{"domain":"demo","attributes":{"user":"h"}}"#);
    let first = check();
    assert_eq!(first.header("ratelimit-policy"), Some("\"five-per-minute\";q=5;w=60"));
    assert!(first.header("ratelimit").unwrap().starts_with("\"five-per-minute\";r=4;t="), "{first:?}");
    assert_eq!(first.header("x-ratelimit-limit"), Some("5"));
    assert_eq!(first.header("x-ratelimit-remaining"), Some("4"));
    assert_eq!(first.header("retry-after"), None);
    for _ in 0..4 {
        check();
    }
    let denied = check();
    let wait = denied.json()["retry_after_ms"].as_u64().unwrap();
    assert_eq!(denied.status, 429);
    assert_eq!(denied.header("retry-after").unwrap().parse(), Ok(wait.div_ceil(1000)));
    assert_eq!(denied.json()["limits"][0]["refused"], true);
    let status_200 = node.send("POST /v1/check?status=200 HTTP/1.1", r#"{"domain":"demo","attributes":{"user":"h"}}"#);
    assert_eq!((status_200.status, &status_200.json()["allowed"]), (200, &false.into()));
    let too_many_hits = node.check(r#"{"domain":"demo","attributes":{"user":"h2"},"hits":6}"#);
    assert_eq!((too_many_hits.status, too_many_hits.header("retry-after")), (429, None), "6 hits never fit into 5");
    assert!(too_many_hits.json()["retry_after_ms"].is_null());
}

#[test]
fn a_request_id_is_read_or_generated() {
    let node = Node::dev(&[]);
    let given = node.send(&format!("{CHECK}\r\nx-request-id: abc-1"), r#"{"domain":"demo"}"#);
    assert_eq!((given.header("x-request-id"), &given.json()["request_id"]), (Some("abc-1"), &"abc-1".into()));
    let generated = node.check(r#"{"domain":"demo"}"#);
    assert_eq!(generated.header("x-request-id").map(str::len), Some(32));
    assert_ne!(generated.header("x-request-id"), node.check(r#"{"domain":"demo"}"#).header("x-request-id"));
    assert!(node.check("{").header("x-request-id").is_some(), "responses to invalid requests have one, too");
}

#[test]
fn forward_auth_reads_attributes_from_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    let text = "version: 1\ndomains:\n  - domain: web\n    limits:\n      \
                - { name: per-key, match: { method: [GET, PUT] }, per: [api_key], limit: 2, window: 1h }\n";
    std::fs::write(&rules, text).unwrap();
    let node = Node::dev(&["--rules", rules.to_str().unwrap()]);
    let authorize = |method: &str, query: &str, headers: &str| {
        node.send(&format!("{method} /v1/authorize?domain=web{query} HTTP/1.1\r\nx-api-key: k1{headers}"), "")
    };
    assert_eq!(authorize("GET", "", "").header("x-ratelimit-remaining"), Some("1"));
    // `grpc-timeout` has no meaning here. It must not turn a denial into status 200.
    assert_eq!(authorize("PUT", "", "\r\ngrpc-timeout: 1n").status, 200);
    let denied = authorize("GET", "", "\r\ngrpc-timeout: 1n");
    assert_eq!((denied.status, denied.body.as_str()), (429, ""));
    assert!(denied.header("retry-after").is_some());
    assert_eq!(authorize("GET", "&deny_status=403", "").status, 403);
    assert_eq!(authorize("DELETE", "", "").status, 200, "no limit matches");
    for invalid in ["&deny_status=200", "&deny_status=x", "&more=1"] {
        assert_eq!(authorize("GET", invalid, "").status, 400, "{invalid}");
    }
    assert_eq!(node.get("/v1/authorize").status, 400, "the domain is required");
}

#[test]
fn probes_and_metrics_respond() {
    let node = Node::dev(&[]);
    for path in ["/health", "/livez", "/ready", "/readyz"] {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
    assert_eq!(node.get("/ready").json()["revision"], 1);
    for _ in 0..6 {
        node.check(r#"{"domain":"demo","attributes":{"user":"m"}}"#);
    }
    node.check(r#"{"domain":"unlisted"}"#);
    node.check("{}");
    let text = node.get("/metrics").body;
    for line in [
        "rate_limiter_requests_total{status=\"allowed\"} 6",
        "rate_limiter_requests_total{status=\"blocked\"} 1",
        "rate_limiter_requests_total{status=\"error\"} 1",
        "tidegate_checks_total{domain=\"demo\",outcome=\"allowed\"} 5",
        "tidegate_checks_total{domain=\"demo\",outcome=\"refused\"} 1",
        "tidegate_checks_total{domain=\"other\",outcome=\"allowed\"} 1",
        "tidegate_decisions_total{domain=\"demo\",limit=\"five-per-minute\",outcome=\"refused\"} 1",
        "rate_limiter_latency_seconds_count 7",
        "tidegate_rules_revision 1",
        "tidegate_invariant_broken_total{invariant=\"I1\"} 0",
    ] {
        assert!(text.lines().any(|l| l == line), "{line} is missing in {text}");
    }
    assert!(!text.contains("unlisted"), "a label must not come from a request");
}
