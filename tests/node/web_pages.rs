//! Which web pages may ask a node, as browsers say it in headers. `tests/gateways` asks with a real browser.

use crate::node::{Node, serve_command};

const CHECK: &str = r#"{"domain":"web"}"#;
const RULES: &str = "version: 1\ndomains: [{ domain: web, limits: [{ name: l, per: [], limit: 3, window: 1d }] }]\n";

fn node(origins: &str) -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, RULES).unwrap();
    let settings: &[(&str, &str)] =
        if origins.is_empty() { &[] } else { &[("TIDEGATE_LISTEN__CORS_ORIGINS", origins)] };
    (Node::start(serve_command(&rules, "memory:", settings)), folder)
}

#[test]
fn a_page_of_another_site_is_rejected_and_charges_nothing() {
    let (node, _folder) = node("");
    for path in ["/v1/check", "/v1/checks"] {
        for headers in ["origin: https://evil.example", "sec-fetch-site: cross-site", "origin: null"] {
            let answer = node.send(&format!("POST {path} HTTP/1.1\r\n{headers}"), CHECK);
            assert_eq!(answer.status, 403, "{path} {headers}");
            assert_eq!(answer.header("access-control-allow-origin"), None);
        }
    }
    assert_eq!(node.check(CHECK).header("x-ratelimit-remaining"), Some("2"));
}

#[test]
fn a_page_of_a_listed_origin_may_ask_and_read_the_headers() {
    let (node, _folder) = node("https://app.example.com,https://other.example.com");
    let preflight = |origin: &str| {
        let wants = "access-control-request-method: POST\r\naccess-control-request-headers: content-type";
        node.send(&format!("OPTIONS /v1/check HTTP/1.1\r\norigin: {origin}\r\n{wants}"), "")
    };
    let answer = preflight("https://app.example.com");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    assert!(answer.header("access-control-allow-headers").unwrap().contains("content-type"));
    assert_eq!(preflight("https://evil.example").header("access-control-allow-origin"), None);
    let answer = node.send("POST /v1/check HTTP/1.1\r\norigin: https://app.example.com", CHECK);
    assert_eq!(answer.header("x-ratelimit-remaining"), Some("2"), "preflights are not counted");
    assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.example.com"));
    let exposed = answer.header("access-control-expose-headers").unwrap();
    for name in ["ratelimit", "ratelimit-policy", "retry-after", "x-ratelimit-remaining", "x-request-id"] {
        assert!(exposed.split(',').any(|exposed| exposed.trim() == name), "{name} in {exposed}");
    }
    assert_eq!(node.send("POST /v1/check HTTP/1.1\r\norigin: https://evil.example", CHECK).status, 403);
}

/// A browser asks first whether a page may set a header of its own, and needs a "yes" in the headers of the answer.
#[test]
fn no_page_may_set_a_header_for_forward_auth() {
    let (node, _folder) = node("https://app.example.com");
    let wants = "access-control-request-method: GET\r\naccess-control-request-headers: x-api-key";
    let ask = |origin: &str| node.send(&format!("OPTIONS /v1/authorize HTTP/1.1\r\norigin: {origin}\r\n{wants}"), "");
    assert_eq!(ask("https://evil.example").header("access-control-allow-origin"), None);
    let listed = ask("https://app.example.com");
    let allowed = listed.header("access-control-allow-headers").unwrap_or_default().to_ascii_lowercase();
    assert!(!allowed.contains("x-api-key") && !allowed.contains('*'), "{allowed}");
}

#[test]
fn an_origin_that_no_browser_writes_is_an_error_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, RULES).unwrap();
    for origin in ["app.example.com", "https://app.example.com/", "https://App.example.com", "*", "null"] {
        let mut command = serve_command(&rules, "memory:", &[("TIDEGATE_LISTEN__CORS_ORIGINS", origin)]);
        let output = command.output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{origin}: {errors}");
        assert!(errors.contains("listen.cors_origins[0]: expected an origin"), "{errors}");
    }
}
