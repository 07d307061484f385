//! `response_headers` of a limit: those that rules may set arrive in real denials over HTTP/1, HTTP/2 and Envoy's call,
//! and those that would break a response are invalid.

use crate::node::{Node, output};
use axum::http::{HeaderMap, Request, StatusCode};
use bytes::Bytes;
use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use proto::envoy::service::ratelimit::v3::RateLimitRequest;
use proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient as EnvoyClient;

/// Headers that people set on denials.
const SET: [(&str, &str); 15] = [
    ("access-control-allow-origin", "*"),
    ("access-control-expose-headers", "Retry-After"),
    ("alt-svc", "clear"),
    ("cache-control", "no-store"),
    ("content-language", "en"),
    ("content-security-policy", "default-src 'none'"),
    ("link", "<https://example.com/limits>; rel=help"),
    ("location", "https://example.com/limits"),
    ("set-cookie", "limited=1; Secure"),
    ("vary", "X-Api-Key"),
    ("warning", ""),
    ("www-authenticate", "Bearer realm=\"x\""),
    ("X-Plan", "free"),
    ("x-a", "1"),
    ("x_under", "~ !"),
];

/// Headers that rules must not set.
const RESERVED: [&str; 51] = [
    "Connection",
    "keep-alive",
    "Keep-Alive",
    "proxy-connection",
    "te",
    "TE",
    "trailer",
    "Transfer-Encoding",
    "transfer-encoding",
    "upgrade",
    "Upgrade",
    "http2-settings",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-authentication-info",
    "trailers",
    "content-length",
    "Content-Length",
    "content-type",
    "Content-Type",
    "content-encoding",
    "content-range",
    "content-digest",
    "content-md5",
    "digest",
    "repr-digest",
    "date",
    "Date",
    "age",
    "server",
    "via",
    "retry-after",
    "Retry-After",
    "x-request-id",
    "X-Request-ID",
    "ratelimit",
    "RateLimit",
    "RateLimit-Policy",
    "ratelimit-remaining",
    "x-ratelimit-limit",
    "X-RateLimit-Reset",
    "x-tidegate-reason",
    "X-Tidegate-Attr-ip",
    "grpc-status",
    "grpc-message",
    "Grpc-Timeout",
    "x-accel-redirect",
    "X-Accel-Expires",
    "X-Sendfile",
    "x-envoy-immediate-health-check-fail",
    "X-Envoy-RateLimited",
];

fn rules(headers: &str) -> String {
    format!(
        "version: 1\ndomains:\n  - domain: d\n    limits:\n      \
         - {{ name: l, per: [], limit: 0, window: 1m, response_headers: {{ {headers} }} }}\n"
    )
}

/// The errors of `rules validate`.
fn errors(headers: &str) -> String {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), rules(headers)).unwrap();
    let output = output(&["rules", "validate", file.path().to_str().unwrap()]);
    assert!([Some(0), Some(78)].contains(&output.status.code()));
    String::from_utf8(output.stderr).unwrap()
}

/// The response of `POST /v1/check` over HTTP/2 without TLS.
async fn check_over_http2(address: &str, body: &'static str) -> (StatusCode, HeaderMap, Vec<u8>) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
    let exchange = async {
        let request = Request::post("http://x/v1/check").body(()).unwrap();
        let (response, mut sender) = client.send_request(request, false).unwrap();
        sender.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
        let (head, mut body) = response.await.unwrap().into_parts();
        let mut bytes = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            bytes.extend_from_slice(&piece);
        }
        (head.status, head.headers, bytes)
    };
    tokio::select! {
        answer = exchange => answer,
        ended = connection => panic!("the connection ended: {ended:?}"),
    }
}

#[tokio::test]
async fn headers_that_rules_may_set_arrive_in_denials() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    let headers: Vec<String> = SET.iter().map(|(name, value)| format!("{name}: {value:?}")).collect();
    std::fs::write(&file, rules(&headers.join(", "))).unwrap();
    let node = Node::dev(&["--rules", file.to_str().unwrap()]);
    const BODY: &str = r#"{"domain":"d","attributes":{}}"#;

    let first = node.check(BODY);
    assert_eq!((first.status, &first.json()["limits"][0]["refused"]), (429, &true.into()), "{first:?}");
    let (status, second, body) = check_over_http2(&node.http, BODY).await;
    let json: serde_json::Value = serde_json::from_slice(&body).unwrap();
    assert_eq!((status.as_u16(), &json["allowed"]), (429, &false.into()));
    let descriptor =
        RateLimitDescriptor { entries: vec![Entry { key: "k".into(), value: "v".into() }], ..Default::default() };
    let request = RateLimitRequest { domain: "d".to_owned(), descriptors: vec![descriptor], hits_addend: 1 };
    let mut client = EnvoyClient::connect(format!("http://{}", node.grpc)).await.unwrap();
    let third = client.should_rate_limit(request).await.unwrap().into_inner().response_headers_to_add;
    for (name, value) in SET {
        assert_eq!(first.header(name), Some(value), "HTTP/1: {name}");
        assert_eq!(second.get(name).map(|value| value.to_str().unwrap()), Some(value), "HTTP/2: {name}");
        assert!(third.iter().any(|header| header.key == name && header.value == value), "Envoy: {name}");
    }
    for (name, value) in [("content-type", "application/json"), ("ratelimit-policy", "\"l\";q=0;w=60")] {
        assert_eq!((first.header(name), second[name].to_str().unwrap()), (Some(value), value), "{name}");
    }
    assert_eq!(first.header("content-length").unwrap(), first.body.len().to_string());
}

#[test]
fn headers_that_would_break_a_response_are_invalid() {
    for name in RESERVED {
        let errors = errors(&format!("{name}: x"));
        assert!(
            errors.contains(&format!("response_headers.{name}: expected a header that rules may set: ")),
            "{name}: {errors}"
        );
    }
    let by_override =
        rules("x-a: b").replace("limit: 0", "limit: 1, overrides: [{ match: { a: b }, response_headers: { te: x } }]");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), by_override).unwrap();
    let found = output(&["rules", "validate", file.path().to_str().unwrap()]).stderr;
    assert!(
        String::from_utf8(found)
            .unwrap()
            .contains("overrides[0].response_headers.te: expected a header that rules may set")
    );
}

#[test]
fn names_and_values_that_are_no_header_are_invalid() {
    let many = (0..17).map(|at| format!("x-{at}: a")).collect::<Vec<_>>().join(", ");
    let large = format!("x-a: {}, x-b: {}", "a".repeat(1024), "b".repeat(1020));
    let table = [
        ("':status': '200'", "expected an HTTP header name"),
        ("'a b': x", "expected an HTTP header name"),
        ("'': x", "expected an HTTP header name"),
        ("'a:': x", "expected an HTTP header name"),
        (r#"x-a: "1\r\nx-b: 2""#, "expected a header value of printable ASCII"),
        (r#"x-a: "1\0""#, "expected a header value of printable ASCII"),
        ("x-a: é", "expected a header value of printable ASCII"),
        ("x-a: b, X-A: c", "expected each header once"),
        (many.as_str(), "expected at most 16 headers with 2048 bytes in all"),
        (large.as_str(), "expected at most 16 headers with 2048 bytes in all"),
    ];
    for (headers, expected) in table {
        let errors = errors(headers);
        assert!(errors.contains(expected), "{headers}: {errors}");
    }
    assert_eq!(errors(&large.replacen('b', "", 3)), "");
}
