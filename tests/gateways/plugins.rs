//! The Lambda authorizer and the plugin for Tyk. AWS API Gateway and Tyk do not run here: each runs as a function. And
//! the files of programs that do not run here.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::setup::{deployed, node};
use crate::support::node::Node;

const RULES: &str = "
version: 1
domains:
  - domain: web
    limits:
      - { name: key, match: { api_key: { present: true } }, per: [api_key], limit: 1, window: 1h, consistency: exact }
      - { name: address, match: { path: /by-address }, per: [ip], limit: 1, window: 1h, consistency: exact }
      - { name: login, match: { method: POST, path: /log in, host: shop.example }, per: [], limit: 0, window: 1h }
";

fn path(name: &str) -> String {
    format!("{}/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Runs a command that prints JSON.
fn json_of(command: &mut Command) -> Value {
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// What the authorizer answers to these events, one after the other, in one process.
fn authorizer(nodes: &str, fail_mode: &str, events: &Value) -> Vec<Value> {
    authorizer_with(nodes, fail_mode, "", events)
}

/// The same with a token, unless it is empty.
fn authorizer_with(nodes: &str, fail_mode: &str, token: &str, events: &Value) -> Vec<Value> {
    let code = "import json, os, sys, contextlib\n\
                with contextlib.redirect_stdout(sys.stderr):\n    \
                import authorizer\n    \
                answers = [authorizer.handler(event, None) for event in json.loads(os.environ['EVENTS'])]\n\
                print(json.dumps(answers))";
    let mut command = Command::new("python3");
    command.args(["-B", "-c", code]).current_dir(path("deploy/gateways/aws")).env("EVENTS", events.to_string());
    command.env("TIDEGATE_NODES", nodes).env("TIDEGATE_DOMAIN", "web").env("TIDEGATE_FAIL_MODE", fail_mode);
    command.env("TIDEGATE_TOKEN", token);
    json_of(&mut command).as_array().unwrap().clone()
}

/// The token of `node_with_token`.
const TOKEN: &str = "token-of-the-plugins";

/// A node whose clients need a token, and its folder.
fn node_with_token() -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    std::fs::write(path("rules.yaml"), RULES).unwrap();
    std::fs::write(path("tokens"), TOKEN).unwrap();
    let tokens = path("tokens").display().to_string();
    (Node::serve(&path("rules.yaml"), "memory:", &[("TIDEGATE_AUTH__TOKENS_FILE", &*tokens)]), folder)
}

/// An event of a REST API.
fn rest(method: &str, path: &str, headers: &Value, ip: &str) -> Value {
    json!({
        "type": "REQUEST", "methodArn": "arn:aws:execute-api:eu-west-1:1:api/live/GET/x", "httpMethod": method,
        "path": path, "headers": headers, "queryStringParameters": null,
        "requestContext": { "requestId": "r1", "domainName": "shop.example", "identity": { "sourceIp": ip } },
    })
}

/// An event of an HTTP API.
fn http(path: &str, headers: &Value, ip: &str) -> Value {
    json!({
        "version": "2.0", "type": "REQUEST", "rawPath": path, "rawQueryString": "a=b", "headers": headers,
        "requestContext":
            { "requestId": "r1", "domainName": "shop.example", "http": { "method": "GET", "sourceIp": ip } },
    })
}

#[test]
fn the_lambda_authorizer_allows_and_denies_what_a_node_says() {
    let node = node(RULES);
    let spoofed = json!({ "X-Forwarded-For": "9.9.9.9", "Forwarded": "for=9.9.9.9", "X-Real-IP": "9.9.9.9" });
    let key = json!({ "x-api-key": "caf\u{e9}" });
    let mut several_keys = rest("GET", "/", &json!({ "X-Api-Key": "l" }), "192.0.2.4");
    several_keys["multiValueHeaders"] = json!({ "X-Api-Key": ["k", "l"] });
    let mut two_names = rest("GET", "/", &json!({ "X-Api-Key": "l" }), "192.0.2.4");
    two_names["multiValueHeaders"] = json!({ "X-Api-Key": ["k"], "x-api-key": ["l"] });
    let mut query = http("/", &Value::Null, "192.0.2.5");
    query["rawQueryString"] = json!("a=\u{20ac}");
    let events = json!([
        http("/", &key, "192.0.2.1"),
        http("/", &key, "192.0.2.1"),
        rest("GET", "/by-address", &json!({}), "192.0.2.1"),
        rest("GET", "/by-address", &spoofed, "192.0.2.1"),
        rest("GET", "/by-address", &json!({}), "192.0.2.2"),
        rest("POST", "/log in", &json!({}), "192.0.2.3"),
        http("/", &json!({ "x-api-key": "k,l" }), "192.0.2.4"),
        several_keys,
        two_names,
        query,
    ]);
    let answers = authorizer(&node.http, "closed", &events);
    let allowed = |answer: &Value| match &answer["isAuthorized"] {
        Value::Bool(allowed) => *allowed,
        _ => answer["policyDocument"]["Statement"][0]["Effect"] == "Allow",
    };
    let seen: Vec<bool> = answers.iter().map(allowed).collect();
    assert_eq!(seen, [true, false, true, false, true, false, false, false, false, true], "{answers:?}");
    assert_eq!(answers[3]["context"]["retryAfter"], "3600", "{answers:?}");
    assert_eq!(answers[3]["context"]["rateLimit"], "\"address\";r=0;t=3600", "{answers:?}");
}

#[test]
fn the_lambda_authorizer_asks_the_next_node_and_then_obeys_its_failure_mode() {
    let node = node(RULES);
    let event = json!([http("/", &json!({ "x-api-key": "k" }), "192.0.2.1")]);
    let nobody = "127.0.0.1:1";
    let both = format!("{nobody},{}", node.http);
    assert_eq!(authorizer(&both, "closed", &event)[0]["isAuthorized"], true, "the second node answers");
    assert_eq!(authorizer(&both, "open", &event)[0]["isAuthorized"], false, "a denial opens nothing");
    assert_eq!(authorizer(nobody, "closed", &event)[0]["isAuthorized"], false);
    assert_eq!(authorizer(nobody, "open", &event)[0]["isAuthorized"], true);
    node.signal("STOP");
    assert_eq!(authorizer(&node.http, "closed", &event)[0]["isAuthorized"], false);
    assert_eq!(authorizer(&node.http, "open", &event)[0]["isAuthorized"], true);
}

#[test]
fn the_lambda_authorizer_sends_its_token() {
    let (node, _folder) = node_with_token();
    let event = json!([http("/", &json!({ "x-api-key": "k" }), "192.0.2.1")]);
    assert_eq!(authorizer(&node.http, "open", &event)[0]["isAuthorized"], false, "a 401 opens nothing");
    assert_eq!(authorizer_with(&node.http, "closed", TOKEN, &event)[0]["isAuthorized"], true);
}

/// A server that answers each connection once, with these statuses one after the other, and then closes it.
#[expect(clippy::disallowed_methods, reason = "the thread ends with its last status")]
fn closing(statuses: &'static [&'static str]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for (mut stream, status) in listener.incoming().map_while(Result::ok).zip(statuses) {
            let _ = stream.read(&mut [0; 4096]);
            let _ = stream.write_all(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n").as_bytes());
        }
    });
    address
}

#[test]
fn connections_that_nodes_have_closed_cost_the_lambda_authorizer_no_try() {
    let nodes = [closing(&["503 Service Unavailable", "200 OK"]), closing(&["200 OK"])].join(",");
    let event = || http("/", &json!({ "x-api-key": "k" }), "192.0.2.1");
    let answers = authorizer(&nodes, "closed", &json!([event(), event()]));
    // The first call has left a closed connection to each node.
    assert!(answers.iter().all(|answer| answer["isAuthorized"] == true), "{answers:?}");
}

/// What the plugin for Tyk answers instead of the application, with these settings beside those of `api.json`.
fn tyk(node: &str, settings: &Value, headers: &Value) -> Value {
    let definition: Value = serde_json::from_str(&deployed("tyk/api.json")).unwrap();
    let mut all = definition["config_data"].clone();
    assert_eq!(all["tidegate_node"], "http://127.0.0.1:8080");
    all["tidegate_node"] = json!(format!("http://{node}"));
    for (name, value) in settings.as_object().unwrap() {
        all[name] = value.clone();
    }
    let request = json!({ "Method": "GET", "RequestURI": "/x?a=b", "Headers": headers });
    let mut command = Command::new("node");
    command.args([path("tests/gateways/tyk.js"), path("deploy/gateways/tyk/tidegate.js")]);
    json_of(command.args([all.to_string(), request.to_string()]))
}

#[test]
fn the_plugin_for_tyk_denies_what_a_node_denies_and_obeys_its_failure_mode() {
    let node = node(RULES);
    let run = |node: &str, mode: &str, headers: Value| tyk(node, &json!({ "tidegate_fail_mode": mode }), &headers);
    let key = || json!({ "X-Api-Key": ["k"] });
    assert_eq!(run(&node.http, "closed", key())["ResponseCode"], 0, "the application answers");
    for mode in ["closed", "open"] {
        let denied = run(&node.http, mode, key());
        assert_eq!(denied["ResponseCode"], 429, "{denied}");
        let wait: u64 = denied["ResponseHeaders"]["Retry-After"].as_str().unwrap().parse().unwrap();
        assert!((1..=3600).contains(&wait), "{denied}");
    }
    assert_eq!(run("127.0.0.1:1", "closed", key())["ResponseCode"], 503);
    assert_eq!(run("127.0.0.1:1", "open", key())["ResponseCode"], 0);
    let two = run(&node.http, "open", json!({ "X-Api-Key": ["k", "l"] }));
    assert_eq!(two["ResponseCode"], 400, "nobody knows which key the application reads");
    node.signal("STOP");
    assert_eq!(run(&node.http, "closed", key())["ResponseCode"], 500);
}

#[test]
fn the_plugin_for_tyk_sends_its_token() {
    let (node, _folder) = node_with_token();
    let key = json!({ "X-Api-Key": ["k"] });
    assert_eq!(tyk(&node.http, &json!({ "tidegate_fail_mode": "open" }), &key)["ResponseCode"], 401);
    assert_eq!(tyk(&node.http, &json!({ "tidegate_token": TOKEN }), &key)["ResponseCode"], 0);
}

/// For the files that no program here reads: those of Kong, Traefik, AWS, Envoy Gateway and Istio.
#[test]
fn every_yaml_file_of_the_gateways_is_yaml() {
    let mut count = 0;
    for folder in std::fs::read_dir(path("deploy/gateways")).unwrap().map(|entry| entry.unwrap().path()) {
        for file in std::fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path()) {
            if file.extension().is_some_and(|extension| extension == "yaml" || extension == "yml") {
                let text = std::fs::read_to_string(&file).unwrap();
                let errors: Vec<_> = saphyr_parser::Parser::new_from_str(&text).filter_map(Result::err).collect();
                assert!(errors.is_empty(), "{}: {errors:?}", file.display());
                count += 1;
            }
        }
    }
    assert!(count >= 9, "{count} files");
}
