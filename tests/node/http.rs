//! The HTTP front end of a running node.

use crate::node::{Node, wait_for};

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
    assert_eq!(node.send("POST /v1/check?status=200&status=200 HTTP/1.1", r#"{"domain":"d"}"#).status, 400);
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
    let denied = authorize("GET", "", "\r\ngrpc-timeout: 1n\r\nx-request-id: mine");
    assert_eq!((denied.status, denied.header("content-type")), (429, Some("application/json")));
    assert!(denied.header("retry-after").is_some());
    let body = denied.json();
    assert_eq!((&body["allowed"], &body["request_id"]), (&false.into(), &"mine".into()));
    assert_eq!((&body["limits"][0]["name"], &body["limits"][0]["refused"]), (&"per-key".into(), &true.into()));
    assert!(body["retry_after_ms"].as_u64().is_some() && body.get("reason").is_none(), "{body}");
    assert_eq!(authorize("GET", "&deny_status=403", "").status, 403);
    assert_eq!(authorize("DELETE", "", "").status, 200, "no limit matches");
    for invalid in ["&deny_status=200", "&deny_status=x", "&more=1", "&domain=web"] {
        assert_eq!(authorize("GET", invalid, "").status, 400, "{invalid}");
    }
    assert_eq!(node.get("/v1/authorize").status, 400, "the domain is required");
}

/// Starts a node with one limit of 1 an hour for each value of these attributes.
fn node_with_limit(per: &str, settings: &[(&str, &str)]) -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    let limit = format!("{{ name: one, per: [{per}], limit: 1, window: 1h, consistency: exact }}");
    std::fs::write(&rules, format!("version: 1\ndomains: [{{ domain: web, limits: [{limit}] }}]\n")).unwrap();
    (Node::serve(&rules, "memory:", settings), folder)
}

/// Asks as a gateway that sends these headers.
fn authorize(node: &Node, headers: &[&[u8]]) -> crate::node::Response {
    let lines: Vec<u8> = headers.iter().flat_map(|line| [b"\r\n", *line].concat()).collect();
    node.send_bytes(&[b"GET /v1/authorize?domain=web HTTP/1.1", &lines[..]].concat(), "")
}

const TRUSTED: (&str, &str) = ("TIDEGATE_LISTEN__TRUSTED_PROXIES", "::ffff:127.0.0.1");

#[test]
fn headers_that_leave_open_what_is_asked_are_a_denial_with_a_reason() {
    let (node, _folder) = node_with_limit("api_key", &[TRUSTED]);
    let cases: [(&[&[u8]], &str, &str); 5] = [
        (&[b"x-api-key: a", b"x-api-key: b"], "repeated_header", "api_key"),
        (&[b"user-agent: a", b"user-agent: a"], "repeated_header", "user_agent"),
        (&[b"x-forwarded-uri: /pay", b"x-original-url: /free"], "contradicting_headers", "path"),
        (&[b"x-forwarded-host: a", b"x-original-host: b"], "contradicting_headers", "host"),
        (&[b"x-forwarded-for: 1.1.1.1", b"forwarded: for=2.2.2.2"], "contradicting_headers", "ip"),
    ];
    for (headers, reason, attribute) in cases {
        let answer = authorize(&node, headers);
        let body = answer.json();
        assert_eq!((answer.status, &body["reason"]), (429, &reason.into()), "{answer:?}");
        assert_eq!((&body["allowed"], &body["limits"]), (&false.into(), &serde_json::json!([])));
        assert!(body["detail"].as_str().unwrap().starts_with(attribute), "{body}");
        assert_eq!(body["request_id"], *answer.header("x-request-id").unwrap());
    }
    let twice = "GET /v1/authorize?domain=web&deny_status=403 HTTP/1.1\r\nx-api-key: a\r\nx-api-key: b";
    assert_eq!(node.send(twice, "").status, 403);
    assert_eq!(authorize(&node, &[b"x-api-key: a"]).status, 200, "such a check is charged nowhere");
    assert_eq!(node.metric(r#"rate_limiter_requests_total{status="error"} "#), 0.0);
    assert_eq!(node.metric(r#"rate_limiter_requests_total{status="blocked"} "#), 6.0);
    assert_eq!(node.metric(r#"tidegate_checks_total{domain="other",outcome="refused"} "#), 6.0);
    assert_eq!(node.metric(r#"tidegate_forward_auth_problems_total{reason="repeated_header"} "#), 3.0);
    assert_eq!(node.metric(r#"tidegate_forward_auth_problems_total{reason="contradicting_headers"} "#), 3.0);
    let agreeing: &[&[u8]] =
        &[b"x-api-key: b", b"x-original-url: https://shop.example:8443/a", b"x-forwarded-host: shop.example:8443"];
    assert_eq!(authorize(&node, agreeing).status, 200);
}

#[test]
fn no_value_of_a_gateways_client_is_an_error() {
    let long = "x".repeat(100_000);
    let values: [&[u8]; 8] =
        [b"", b"k", b"\xff", b"\xfe", "\u{fffd}".as_bytes(), b"\\xff", long.as_bytes(), &long.as_bytes()[1..]];
    for (attribute, header) in [
        ("api_key", "x-api-key"),
        ("user_agent", "user-agent"),
        ("path", "x-original-uri"),
        ("host", "x-forwarded-host"),
        ("method", "x-forwarded-method"),
        ("tier", "x-tidegate-attr-tier"),
    ] {
        let (node, _folder) = node_with_limit(attribute, &[TRUSTED, ("TIDEGATE_LISTEN__ATTRIBUTE_HEADERS", "tier")]);
        for expected in [200, 429] {
            for value in values {
                let line = [header.as_bytes(), b": ", value].concat();
                let answer = authorize(&node, &[&line]);
                assert_eq!(answer.status, expected, "{attribute}: {}", value[..value.len().min(9)].escape_ascii());
            }
        }
        assert_eq!(node.metric(r#"rate_limiter_requests_total{status="error"} "#), 0.0, "{attribute}");
    }
}

#[test]
fn the_client_is_whom_the_settings_say() {
    let hops = ("TIDEGATE_LISTEN__CLIENT_IP__HOPS", "2");
    let header = ("TIDEGATE_LISTEN__CLIENT_IP__HEADER", "CF-Connecting-IP");
    let proxies = ("TIDEGATE_LISTEN__TRUSTED_PROXIES", "127.0.0.1, 10.0.0.0/8");
    // Settings, the header of a first check, and headers that name the same client.
    type Case<'c> = (&'c [(&'c str, &'c str)], &'c [u8], &'c [&'c [u8]]);
    let cases: [Case<'_>; 5] = [
        (
            &[proxies],
            b"x-forwarded-for: 203.0.113.9:1234, 10.0.0.5",
            &[b"forwarded: for=203.0.113.9", b"x-real-ip: 203.0.113.9"],
        ),
        (
            &[proxies],
            b"x-forwarded-for: \xff, 203.0.113.9",
            &[b"x-forwarded-for: 1.1.1.1, 203.0.113.9", b"x-forwarded-for: ::ffff:cb00:7109"],
        ),
        (
            &[TRUSTED, hops],
            b"x-forwarded-for: 203.0.113.9, 198.51.100.7",
            &[b"x-forwarded-for: 1.1.1.1, 203.0.113.9, 198.51.100.8"],
        ),
        (&[TRUSTED, header], b"cf-connecting-ip: 203.0.113.9", &[b"CF-Connecting-IP: [::ffff:203.0.113.9]:80"]),
        // Whatever cannot be read is one client.
        (&[TRUSTED], b"x-forwarded-for: unknown", &[b"x-forwarded-for: \xff", b"forwarded: for=_hidden"]),
    ];
    for (settings, first, others) in cases {
        let (node, _folder) = node_with_limit("ip", settings);
        assert_eq!(authorize(&node, &[first]).status, 200);
        for other in others {
            assert_eq!(authorize(&node, &[other]).status, 429, "{}", other.escape_ascii());
        }
        assert_eq!(
            authorize(&node, &[b"x-forwarded-for: 9.9.9.9", b"cf-connecting-ip: 9.9.9.9", b"forwarded: for=9.9.9.9"])
                .status,
            200
        );
        let unreadable = node.metric(r#"tidegate_forward_auth_problems_total{reason="unreadable_address"} "#);
        assert_eq!(unreadable, if first.ends_with(b"unknown") { 3.0 } else { 0.0 });
        let lines = node.log().lines().filter(|line| line.contains("unreadable_address")).count();
        assert_eq!(lines, usize::from(unreadable > 0.0), "it is logged once: {}", node.log());
    }
}

#[test]
fn a_log_line_says_once_whose_headers_are_not_believed() {
    let (node, _folder) = node_with_limit("ip", &[("TIDEGATE_LISTEN__TRUSTED_PROXIES", "10.0.0.0/8")]);
    assert_eq!(authorize(&node, &[]).status, 200);
    let lines =
        || node.log().lines().filter(|line| line.contains("not_believed")).map(ToOwned::to_owned).collect::<Vec<_>>();
    assert!(lines().is_empty());
    for header in
        [&b"x-forwarded-for: 1.1.1.1"[..], b"x-original-uri: /", b"forwarded: for=1.1.1.1", b"x-real-ip: 1.1.1.1"]
    {
        assert_eq!(authorize(&node, &[header]).status, 429, "{}", header.escape_ascii());
    }
    let lines = wait_for("the log line", || Some(lines()).filter(|lines| !lines.is_empty()));
    assert_eq!(lines.len(), 1, "{lines:?}");
    assert!(lines[0].contains("127.0.0.1") && lines[0].contains("listen.trusted_proxies"), "{lines:?}");
    assert_eq!(node.metric(r#"tidegate_forward_auth_problems_total{reason="not_believed"} "#), 4.0);
}

#[test]
fn dev_believes_this_machine_and_no_client_names_a_built_in_attribute() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    let limit = "{ name: one, per: [ip], limit: 1, window: 1h }";
    std::fs::write(&rules, format!("version: 1\ndomains: [{{ domain: web, limits: [{limit}] }}]\n")).unwrap();
    let node = Node::dev(&["--rules", rules.to_str().unwrap()]);
    assert_eq!(authorize(&node, &[b"x-forwarded-for: 203.0.113.9"]).status, 200);
    assert_eq!(authorize(&node, &[b"x-forwarded-for: 203.0.113.8"]).status, 200);
    assert_eq!(authorize(&node, &[b"x-forwarded-for: 203.0.113.9", b"x-tidegate-attr-ip: 9.9.9.9"]).status, 429);
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
