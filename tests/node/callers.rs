//! Who may ask for checks: bearer tokens (`auth.tokens_file`), and what a node says that asks for none.

use proto::tidegate::v1::CheckRequest;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use tonic::transport::Endpoint;
use tonic::{Code, Request};

use crate::node::{Node, output, serve_command, wait_for};

const RULES: &str = "version: 1\ndomains: [{ domain: web, limits: [{ name: l, per: [], limit: 100, window: 1d }] }]\n";
const FIRST: &str = "first-token-of-a-gateway";
const SECOND: &str = "second-token-of-a-gateway";

/// A node whose clients need a token, and its folder.
fn node_with_tokens(tokens: &str) -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("rules.yaml"), RULES).unwrap();
    std::fs::write(path("tokens"), tokens).unwrap();
    let settings = [("TIDEGATE_AUTH__TOKENS_FILE", path("tokens").display().to_string())];
    let settings = settings.each_ref().map(|(name, value)| (*name, value.as_str()));
    (Node::start(serve_command(&path("rules.yaml"), "memory:", &settings)), folder)
}

fn statuses(node: &Node, headers: &str) -> [u16; 3] {
    let check = node.send(&format!("POST /v1/check HTTP/1.1{headers}"), r#"{"domain":"web"}"#);
    let batch = node.send(&format!("POST /v1/checks HTTP/1.1{headers}"), r#"{"checks":[{"domain":"web"}]}"#);
    let authorize = node.send(&format!("GET /v1/authorize?domain=web HTTP/1.1{headers}"), "");
    [check.status, batch.status, authorize.status]
}

#[tokio::main(flavor = "current_thread")]
async fn grpc_code(node: &Node, authorization: Option<&str>) -> Code {
    let channel = Endpoint::from_shared(format!("http://{}", node.grpc)).unwrap().connect().await.unwrap();
    let mut request = Request::new(CheckRequest { domain: "web".to_owned(), ..CheckRequest::default() });
    if let Some(value) = authorization {
        request.metadata_mut().insert("authorization", value.parse().unwrap());
    }
    match RateLimitServiceClient::new(channel).check(request).await {
        Ok(_) => Code::Ok,
        Err(status) => status.code(),
    }
}

#[test]
fn checks_need_a_token_and_probes_need_none() {
    let (node, _folder) = node_with_tokens(&format!("# gateways\n{FIRST}\n"));
    let bearer = format!("\r\nauthorization: Bearer {FIRST}");
    assert_eq!(statuses(&node, &bearer), [200; 3]);
    for wrong in ["", "\r\nauthorization: Bearer other-token-of-a-client", "\r\nauthorization: Basic Zmlyc3Q6"] {
        assert_eq!(statuses(&node, wrong), [401; 3], "{wrong}");
    }
    assert_eq!(statuses(&node, &format!("{bearer}{bearer}")), [401; 3], "two tokens");
    let answer = node.check(r#"{"domain":"web"}"#);
    assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert!(!answer.body.contains(FIRST) && !node.log().contains(FIRST));
    for path in ["/health", "/livez", "/ready", "/readyz", "/metrics", "/openapi.json"] {
        assert_eq!(node.get(path).status, 200, "{path}");
    }
    assert_eq!(grpc_code(&node, Some(&format!("Bearer {FIRST}"))), Code::Ok);
    assert_eq!(grpc_code(&node, Some("Bearer other-token-of-a-client")), Code::Unauthenticated);
    assert_eq!(grpc_code(&node, None), Code::Unauthenticated);
    assert_eq!(node.metric(r#"tidegate_unauthorized_total{face="grpc"} "#), 2.0);
    assert_eq!(node.metric(r#"tidegate_unauthorized_total{face="http"} "#), 13.0);
}

#[test]
fn the_command_check_sends_a_token() {
    let (node, folder) = node_with_tokens(FIRST);
    let file = folder.path().join("tokens").display().to_string();
    for address in [format!("http://{}", node.http), format!("grpc://{}", node.grpc)] {
        let asked = output(&["check", "--addr", &address, "--domain", "web", "--token-file", &file]);
        assert_eq!(asked.status.code(), Some(0), "{asked:?}");
        let asked = output(&["check", "--addr", &address, "--domain", "web"]);
        assert!(
            asked.status.code() == Some(1) && String::from_utf8_lossy(&asked.stderr).contains("Bearer"),
            "{asked:?}"
        );
    }
}

#[test]
fn tokens_are_read_again_when_their_file_changes_and_a_wrong_file_changes_nothing() {
    let (node, folder) = node_with_tokens(FIRST);
    let is_valid = |token: &str| statuses(&node, &format!("\r\nauthorization: Bearer {token}"))[0] != 401;
    assert!(is_valid(FIRST) && !is_valid(SECOND));
    std::fs::write(folder.path().join("tokens"), format!("{FIRST}\n{SECOND}\n")).unwrap();
    wait_for("the new token to count", || is_valid(SECOND).then_some(()));
    assert!(is_valid(FIRST));
    std::fs::write(folder.path().join("tokens"), SECOND).unwrap();
    wait_for("the old token to count no more", || (!is_valid(FIRST)).then_some(()));
    std::fs::write(folder.path().join("tokens"), "short").unwrap();
    let failed = || node.metric(r#"tidegate_certificate_reload_failures_total{section="auth"} "#) == 1.0;
    wait_for("the node to notice the wrong file", || failed().then_some(()));
    assert!(is_valid(SECOND));
    assert!(!node.log().contains("short"), "{}", node.log());
}

#[test]
fn a_file_of_tokens_that_cannot_be_used_is_an_error_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("rules.yaml"), RULES).unwrap();
    std::fs::write(path("tokens"), "long-enough-to-be-a-token\nshort\n").unwrap();
    for (file, expected) in [("tokens", "line 2: expected one token of 16"), ("missing", "No such file")] {
        let file = path(file).display().to_string();
        let mut command = serve_command(&path("rules.yaml"), "memory:", &[("TIDEGATE_AUTH__TOKENS_FILE", &file)]);
        let output = command.output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(78), "{errors}");
        assert!(errors.contains("auth.tokens_file") && errors.contains(expected), "{errors}");
    }
}

#[test]
fn a_node_names_each_front_end_that_everybody_may_use() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, RULES).unwrap();
    let advice = |settings: &[(&str, &str)]| -> Vec<String> {
        let node = Node::serve(&rules, "memory:", settings);
        let advice = node.get("/ready").json()["advice"].clone();
        let advice: Vec<String> = serde_json::from_value(advice).unwrap();
        advice.iter().for_each(|advice| assert!(node.log().contains(advice.as_str()), "{advice}"));
        advice.into_iter().filter(|advice| advice.contains("auth.tokens_file")).collect()
    };
    assert!(advice(&[]).is_empty(), "both listen on loopback");
    let open = advice(&[("TIDEGATE_LISTEN__HTTP", "0.0.0.0:0"), ("TIDEGATE_LISTEN__GRPC", "0.0.0.0:0")]);
    assert!(open.len() == 2 && open[0].starts_with("listen.http ") && open[1].starts_with("listen.grpc "), "{open:?}");
    let grpc = advice(&[("TIDEGATE_LISTEN__GRPC", "0.0.0.0:0")]);
    assert!(grpc.len() == 1 && grpc[0].starts_with("listen.grpc "), "{grpc:?}");
    let tokens = folder.path().join("tokens");
    std::fs::write(&tokens, FIRST).unwrap();
    let tokens = tokens.display().to_string();
    assert!(advice(&[("TIDEGATE_LISTEN__HTTP", "0.0.0.0:0"), ("TIDEGATE_AUTH__TOKENS_FILE", &tokens)]).is_empty());
}
