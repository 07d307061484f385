//! Forward-auth with the gateways and the files of `deploy/gateways`.

use tempfile::TempDir;

use crate::client::{Client, Response};
use crate::gateway::{FORWARD_AUTH, Gateway, Start};
use crate::setup;
use crate::support::node::Node;

const RULES: &str = r#"
version: 1
domains:
  - domain: web
    limits:
      - { name: login, match: { path: /login }, per: [], limit: 0, window: 1h }
      - { name: admin, match: { path: { prefix: /admin } }, per: [], limit: 0, window: 1h }
      - { name: host, match: { host: blocked.example }, per: [], limit: 0, window: 1h }
      - { name: method, match: { method: POST, path: /post }, per: [], limit: 0, window: 1h }
      - { name: raw, match: { raw_path: //raw }, per: [], limit: 0, window: 1h }
      - { name: tier, match: { tier: free }, per: [], limit: 0, window: 1h }
      - { name: ip, match: { path: /ip }, per: [ip], limit: 1, window: 1h, consistency: exact }
      - { name: key, match: { path: /key }, per: [api_key], limit: 1, window: 1h, consistency: exact }
      - { name: agent, match: { path: /agent }, per: [user_agent], limit: 1, window: 1h, consistency: exact }
      - { name: path, match: { path: { prefix: /path/ } }, per: [path], limit: 1, window: 1h, consistency: exact }
"#;

/// A node that trusts 127.0.0.1, and a gateway before it. Clients come from 127.0.0.2.
struct Setup {
    name: &'static str,
    node: Node,
    gateway: Gateway,
    _folder: TempDir,
}

impl Setup {
    fn each() -> Vec<Self> {
        let start = |(name, start): (_, Start)| {
            let folder = tempfile::tempdir().unwrap();
            let rules = folder.path().join("rules.yaml");
            std::fs::write(&rules, RULES).unwrap();
            let node = Node::serve(&rules, "memory:", &[("TIDEGATE_LISTEN__TRUSTED_PROXIES", "127.0.0.1")]);
            let gateway = start(&setup::Setup::patient(vec![&node]));
            Self { name, node, gateway, _folder: folder }
        };
        FORWARD_AUTH.into_iter().map(start).collect()
    }

    /// Sends a request with these headers from a client of its own.
    fn get(&self, target: &[u8], headers: &[&[u8]]) -> Response {
        let host: &[u8] =
            if headers.iter().any(|line| line.starts_with(b"Host:")) { b"" } else { b"\r\nHost: shop.example" };
        let lines: Vec<u8> = headers.iter().flat_map(|line| [b"\r\n", *line].concat()).collect();
        Client::new(&self.gateway).send(&[b"GET ", target, b" HTTP/1.1", host, &lines].concat())
    }

    fn status(&self, target: &[u8], headers: &[&[u8]]) -> u16 {
        self.get(target, headers).status
    }

    /// The number of calls that the node answered with an error, or could not read.
    fn errors(&self) -> f64 {
        let unread = r#"tidegate_connections_closed_total{face="http",reason="protocol"} "#;
        self.node.metric(r#"rate_limiter_requests_total{status="error"} "#) + self.node.metric(unread)
    }

    fn problems(&self, reason: &str) -> f64 {
        self.node.metric(&format!(r#"tidegate_forward_auth_problems_total{{reason="{reason}"}} "#))
    }
}

#[test]
fn no_spelling_of_a_path_or_a_host_evades_its_limit() {
    for setup in Setup::each() {
        let denied: [&[u8]; 13] = [
            b"/login",
            b"/%6Cogin",
            b"//login",
            b"/./login",
            b"/x/../login",
            b"/login?a=/b",
            b"/%2e/x/%2E./%6cogin",
            b"/admin",
            b"//admin/x",
            b"/%61dmin",
            b"/a/../admin/",
            b"//raw",
            b"//raw?x",
        ];
        for target in denied {
            assert_eq!(setup.status(target, &[]), 429, "{}: {}", setup.name, target.escape_ascii());
        }
        let allowed: [&[u8]; 6] = [b"/", b"/logins", b"/login/", b"/login%2F", b"/LOGIN", b"/raw"];
        for target in allowed {
            assert_eq!(setup.status(target, &[]), 200, "{}: {}", setup.name, target.escape_ascii());
        }
        for host in
            ["blocked.example", "BLOCKED.example", "blocked.example:443", "blocked.example.", "Blocked.example.:80"]
        {
            assert_eq!(setup.status(b"/", &[format!("Host: {host}").as_bytes()]), 429, "{}: {host}", setup.name);
        }
        for target in ["/path/same", "//path/same", "/path/./same", "/x/../path/%73ame", "/path//same?again"] {
            let status = setup.status(target.as_bytes(), &[]);
            assert_eq!(status, if target == "/path/same" { 200 } else { 429 }, "{}: {target}", setup.name);
        }
        for target in [&b"http://BLOCKED.example:81/"[..], b"http://x:81//login"] {
            let authority = target.split(|byte| *byte == b'/').nth(2).unwrap();
            let status = setup.status(target, &[&[b"Host: ", authority].concat()]);
            assert_eq!(status, 429, "{}: {}", setup.name, target.escape_ascii());
        }
        let post = Client::new(&setup.gateway).send(b"POST /post HTTP/1.1\r\nHost: x\r\nContent-Length: 0");
        assert_eq!((post.status, setup.status(b"/post", &[])), (429, 200), "{}", setup.name);
        assert_eq!(setup.errors(), 0.0, "{}", setup.name);
    }
}

#[test]
fn a_client_cannot_choose_its_address_or_an_attribute() {
    for setup in Setup::each() {
        assert_eq!(setup.status(b"/ip", &[]), 200, "{}", setup.name);
        let others: [&[u8]; 10] = [
            b"X-Forwarded-For: 9.9.9.9",
            b"X-Forwarded-For: \xff, 9.9.9.9",
            b"X-Forwarded-For: ,,",
            b"X-Real-IP: 9.9.9.9",
            b"Forwarded: for=9.9.9.9",
            b"Forwarded: for=\"9.9.9.9",
            b"X-Tidegate-Attr-ip: 9.9.9.9",
            b"X-Tidegate-Attr-path: /free",
            b"X-Original-URL: /free",
            b"X-Forwarded-Uri: /free",
        ];
        for header in others {
            assert_eq!(setup.status(b"/ip", &[header]), 429, "{}: {}", setup.name, header.escape_ascii());
            assert_eq!(setup.status(b"/", &[header]), 200, "{}: {}", setup.name, header.escape_ascii());
        }
        for header in ["Original-Host", "Forwarded-Host", "Original-Method", "Forwarded-Method", "Original-URI"] {
            let header = format!("X-{header}: blocked.example");
            assert_eq!(setup.status(b"/", &[header.as_bytes()]), 200, "{}: {header}", setup.name);
        }
        assert_eq!(setup.status(b"/", &[b"X-Tidegate-Attr-tier: free"]), 200, "{}", setup.name);
        assert_eq!(setup.problems("contradicting_headers"), 0.0, "{}", setup.name);
        assert_eq!(setup.problems("not_believed"), 0.0, "{}", setup.name);
    }
}

#[test]
fn no_value_of_a_client_is_an_error_and_different_values_are_counted_apart() {
    for setup in Setup::each() {
        let long = "x".repeat(7000);
        let values: [&[u8]; 6] = [b"k", b"\xff", b"\xfe", b"\\xff", long.as_bytes(), &long.as_bytes()[1..]];
        for (target, name) in [(&b"/key"[..], "X-API-Key"), (b"/agent", "User-Agent")] {
            let line = |value: &[u8]| [name.as_bytes(), b": ", value].concat();
            for expected in [200, 429] {
                for value in values {
                    assert_eq!(setup.status(target, &[&line(value)]), expected, "{}: {name}", setup.name);
                }
            }
        }
        let twice: &[&[u8]] = &[b"X-API-Key: a", b"X-API-Key: b"];
        assert_eq!(setup.status(b"/", twice), 429, "{}", setup.name);
        // Caddy passes on the first, to the application as well.
        let twice: &[&[u8]] = &[b"User-Agent: a", b"User-Agent: b"];
        assert_eq!(setup.status(b"/", twice), if setup.name == "caddy" { 200 } else { 429 }, "{}", setup.name);
        for expected in [200, 429] {
            for value in ["a", "%FF", "%FE", "%5Cxff", "%0A", &long, &long[1..]] {
                assert_eq!(setup.status(format!("/path/{value}").as_bytes(), &[]), expected, "{}: {value}", setup.name);
            }
        }
        let many: Vec<Vec<u8>> = (0..80).map(|at| format!("X-{at}: {at}").into_bytes()).collect();
        let many: Vec<&[u8]> = many.iter().map(Vec::as_slice).collect();
        let odd: [&[&[u8]]; 6] = [
            &many,
            &[b"X-Request-Id: \xff"],
            &[b"X-Request-Id: a", b"X-Request-Id: b"],
            &[b"Content-Type: text/xml", b"Accept: nothing"],
            &[b"Cookie: \xff\xfe"],
            &[b"grpc-timeout: 1n"],
        ];
        for headers in odd {
            assert_eq!(setup.status(b"/", headers), 200, "{}: {headers:?}", setup.name);
        }
        for head in [
            &b"DELETE / HTTP/1.1\r\nHost: x"[..],
            b"MKCOL / HTTP/1.1\r\nHost: x",
            b"GET / HTTP/1.0\r\nHost: x",
            b"GET http://y/ HTTP/1.1\r\nHost: y",
            b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc",
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0",
        ] {
            assert_eq!(Client::new(&setup.gateway).send(head).status, 200, "{}: {}", setup.name, head.escape_ascii());
        }
        assert_eq!(setup.errors(), 0.0, "{}", setup.name);
    }
}

#[test]
fn a_request_that_a_node_cannot_read_opens_no_gateway() {
    for setup in Setup::each() {
        let rejected = |headers: &[&[u8]], what: &str| {
            let status = setup.status(b"/login", headers);
            assert!((400..600).contains(&status), "{}: {status} for {what}", setup.name);
        };
        let many: Vec<Vec<u8>> = (0..2000).map(|at| format!("X-{at}: {at}").into_bytes()).collect();
        rejected(&many.iter().map(Vec::as_slice).collect::<Vec<_>>(), "many headers");
        assert_eq!(setup.errors(), 0.0, "{}: a node reads what gateways pass on", setup.name);
        rejected(&[b"X-API-Key: \x01"], "a control character");
        rejected(&[&[b"User-Agent: ", "x".repeat(500_000).as_bytes()].concat()], "a large head");
    }
}

#[test]
fn a_client_sees_why_it_was_denied_and_when_to_ask_again() {
    for setup in Setup::each() {
        let key: &[&[u8]] = &[b"X-API-Key: shown"];
        assert_eq!(setup.status(b"/key", key), 200);
        let denied = setup.get(b"/key", key);
        assert_eq!(denied.status, 429, "{}", setup.name);
        let header = |name: &str| denied.headers.get(name).unwrap_or_else(|| panic!("{}: no {name}", setup.name));
        assert!(header("retry-after").parse::<u64>().unwrap() > 0, "{}", setup.name);
        assert!(header("ratelimit").contains("\"key\""), "{}: {denied:?}", setup.name);
        let body: serde_json::Value = serde_json::from_slice(&denied.body).unwrap();
        match setup.name {
            "nginx" => assert_eq!(body["status"], 429),
            _ => assert_eq!((&body["allowed"], &body["limits"][0]["name"]), (&false.into(), &"key".into())),
        }
        let two: &[&[u8]] = &[b"X-API-Key: a", b"X-API-Key: b"];
        let denied = setup.get(b"/", two);
        let body: serde_json::Value = serde_json::from_slice(&denied.body).unwrap();
        if setup.name != "nginx" {
            assert_eq!(body["reason"], "repeated_header", "{}: {body}", setup.name);
        }
    }
}
