//! The HTTP face of a running node.

use crate::node::Node;

const CHECK: &str = "POST /v1/check HTTP/1.1";

#[test]
fn a_wrong_request_is_told_every_error() {
    let node = Node::dev(&[]);
    let answer = node.check(r#"{"hits":-1,"attributes":{"a/b":5},"more":1}"#);
    assert_eq!((answer.status, answer.header("content-type")), (400, Some("application/problem+json")));
    for expected in ["\"/domain\"", "\"/hits\"", "\"/attributes/a~1b\"", "\"/more\"", "quote it"] {
        assert!(answer.body.contains(expected), "{expected} is missing in {answer:?}");
    }
    let long = "x".repeat(4096);
    assert_eq!(node.check(&format!(r#"{{"domain":"demo","attributes":{{"user":"{long}"}}}}"#)).status, 200);
    assert_eq!(node.check(&format!(r#"{{"domain":"demo","attributes":{{"user":"{long}x"}}}}"#)).status, 400);
    assert_eq!(node.check(r#"{"domain":"nobody"}"#).status, 200, "where no limit matches, a check passes");
    assert_eq!(node.check("{").status, 400);
    assert_eq!(node.send("POST /v1/check?status=201 HTTP/1.1", r#"{"domain":"d"}"#).status, 400);
    assert_eq!(node.send("POST /v1/check?stats=200 HTTP/1.1", r#"{"domain":"d"}"#).status, 400);
}

#[test]
fn what_http_refuses_is_a_problem_document() {
    let node = Node::dev(&[]);
    let table = [
        ("GET /nothing HTTP/1.1", "", 404),
        ("GET /v1/check HTTP/1.1", "", 405),
        ("POST /metrics HTTP/1.1", "", 405),
        ("POST /v1/check HTTP/1.1\r\ncontent-type: text/xml", "{}", 415),
    ];
    let large = " ".repeat(70_000);
    for (head, body, status) in table.into_iter().chain([(CHECK, large.as_str(), 413)]) {
        let answer = node.send(head, body);
        assert_eq!(answer.status, status, "{head}");
        assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{head}");
        assert_eq!(answer.json()["status"], status);
        assert_eq!(answer.header("x-request-id").map(str::len), Some(32), "{head}");
    }
    let named = node.send("GET /nothing HTTP/1.1\r\nx-request-id: mine", "");
    assert_eq!(named.header("x-request-id"), Some("mine"));
    let metrics = node.get("/metrics").body;
    assert!(metrics.contains("rate_limiter_requests_total{status=\"error\"} 6"), "{metrics}");
    let curls_own = format!("{CHECK}\r\ncontent-type: application/x-www-form-urlencoded");
    assert_eq!(node.send(&curls_own, r#"{"domain":"demo"}"#).status, 200);
}

#[test]
fn headers_say_what_is_left_and_when_to_come_back() {
    let node = Node::dev(&[]);
    let ask = || node.check(r#"{"domain":"demo","attributes":{"user":"h"}}"#);
    let first = ask();
    assert_eq!(first.header("ratelimit-policy"), Some("\"five-per-minute\";q=5;w=60"));
    assert!(first.header("ratelimit").unwrap().starts_with("\"five-per-minute\";r=4;t="), "{first:?}");
    assert_eq!(first.header("x-ratelimit-limit"), Some("5"));
    assert_eq!(first.header("x-ratelimit-remaining"), Some("4"));
    assert_eq!(first.header("retry-after"), None);
    for _ in 0..4 {
        ask();
    }
    let refused = ask();
    let wait = refused.json()["retry_after_ms"].as_u64().unwrap();
    assert_eq!(refused.status, 429);
    assert_eq!(refused.header("retry-after").unwrap().parse(), Ok(wait.div_ceil(1000)));
    assert_eq!(refused.json()["limits"][0]["refused"], true);
    let always = node.send("POST /v1/check?status=200 HTTP/1.1", r#"{"domain":"demo","attributes":{"user":"h"}}"#);
    assert_eq!((always.status, &always.json()["allowed"]), (200, &false.into()));
    let never = node.check(r#"{"domain":"demo","attributes":{"user":"h2"},"hits":6}"#);
    assert_eq!((never.status, never.header("retry-after")), (429, None), "waiting cannot help");
    assert!(never.json()["retry_after_ms"].is_null());
}

#[test]
fn a_request_id_is_taken_or_made() {
    let node = Node::dev(&[]);
    let given = node.send(&format!("{CHECK}\r\nx-request-id: abc-1"), r#"{"domain":"demo"}"#);
    assert_eq!((given.header("x-request-id"), &given.json()["request_id"]), (Some("abc-1"), &"abc-1".into()));
    let made = node.check(r#"{"domain":"demo"}"#);
    assert_eq!(made.header("x-request-id").map(str::len), Some(32));
    assert_ne!(made.header("x-request-id"), node.check(r#"{"domain":"demo"}"#).header("x-request-id"));
    assert!(node.check("{").header("x-request-id").is_some(), "errors have one, too");
}

#[test]
fn forward_auth_takes_attributes_from_the_request() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    let text = "version: 1\ndomains:\n  - domain: web\n    limits:\n      \
                - { name: per-key, match: { method: [GET, PUT] }, per: [api_key], limit: 2, window: 1h }\n";
    std::fs::write(&rules, text).unwrap();
    let node = Node::dev(&["--rules", rules.to_str().unwrap()]);
    let ask = |method: &str, query: &str, more: &str| {
        node.send(&format!("{method} /v1/authorize?domain=web{query} HTTP/1.1\r\nx-api-key: k1{more}"), "")
    };
    assert_eq!(ask("GET", "", "").header("x-ratelimit-remaining"), Some("1"));
    // A timeout of gRPC means nothing here: it must not turn a refusal into a pass.
    assert_eq!(ask("PUT", "", "\r\ngrpc-timeout: 1n").status, 200);
    let refused = ask("GET", "", "\r\ngrpc-timeout: 1n");
    assert_eq!((refused.status, refused.body.as_str()), (429, ""));
    assert!(refused.header("retry-after").is_some());
    assert_eq!(ask("GET", "&deny_status=403", "").status, 403);
    assert_eq!(ask("DELETE", "", "").status, 200, "no limit matches");
    for wrong in ["&deny_status=200", "&deny_status=x", "&more=1"] {
        assert_eq!(ask("GET", wrong, "").status, 400, "{wrong}");
    }
    assert_eq!(node.get("/v1/authorize").status, 400, "the domain is required");
}

#[test]
fn probes_and_metrics() {
    let node = Node::dev(&[]);
    for path in ["/health", "/livez", "/ready", "/readyz"] {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
    assert_eq!(node.get("/ready").json()["revision"], 1);
    for _ in 0..6 {
        node.check(r#"{"domain":"demo","attributes":{"user":"m"}}"#);
    }
    node.check(r#"{"domain":"somebody's own"}"#);
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
    assert!(!text.contains("somebody"), "no label comes from a request");
}
