//! The files of `deploy/gateways/envoy`, with a real Envoy.

use std::process::Command;

use crate::client::Client;
use crate::envoy::envoy;
use crate::gateway::{self, FailMode, Gateway, Setup, deployed, replaced};
use crate::support::node::{Node, send_to};
use crate::support::servers::free_ports;
use crate::support::wait::wait_for;

/// An address in Envoy's YAML.
fn address(port: u16) -> String {
    format!("{{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}")
}

/// A file with the ports of this setup. The gateway gets `port`, Envoy's administration `port + 1`, and further
/// listeners the ports that follow.
fn with_ports(setup: &Setup<'_>, name: &str, port: u16) -> String {
    let application = address(gateway::port_of(&setup.application));
    let endpoint = |node: &&Node| format!("- endpoint: {{ address: {} }}", address(gateway::port_of(&node.grpc)));
    let endpoints: Vec<String> = setup.nodes.iter().map(endpoint).collect();
    let endpoint = format!("- endpoint: {{ address: {} }}", address(8081));
    let mut text = setup.file(name).replace(&address(8000), &application);
    text = replaced(&text, &endpoint, &endpoints.join("\n        "));
    for (at, known) in [10_000, 9901, 10_001].into_iter().enumerate() {
        text = text.replace(&address(known), &address(port + u16::try_from(at).unwrap()));
    }
    text
}

impl Gateway {
    /// Starts Envoy with `deploy/gateways/envoy/envoy.yaml`.
    pub fn deployed_envoy(setup: &Setup<'_>) -> Self {
        Self::envoy_with(setup, "envoy/envoy.yaml").0
    }

    /// Starts Envoy with this file, and returns the gateway and the first of its ports.
    fn envoy_with(setup: &Setup<'_>, name: &str) -> (Self, u16) {
        let port = free_ports(3);
        let mut text = with_ports(setup, name, port);
        if setup.fail_mode == FailMode::Closed {
            text = text.replace("failure_mode_deny: false", "failure_mode_deny: true");
        }
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("envoy.yaml"), text).unwrap();
        let mut command = Command::new(envoy());
        command.args(["--config-path", "envoy.yaml", "--concurrency", "2", "--disable-hot-restart"]);
        command.args(["--log-level", "error"]);
        let gateway = Self::start(command, port, folder);
        wait_for("Envoy to find every node healthy", || {
            let hosts = send_to(&format!("127.0.0.1:{}", port + 1), b"GET /clusters HTTP/1.1", "").body;
            let healthy = |line: &&str| line.starts_with("tidegate::") && line.ends_with("health_flags::healthy");
            (hosts.lines().filter(healthy).count() == setup.nodes.len()).then_some(())
        });
        (gateway, port)
    }
}

/// A node with the rules beside the files.
fn node() -> Node {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, deployed("envoy/rules.yaml")).unwrap();
    Node::dev(&["--rules", rules.to_str().unwrap()])
}

/// What is left of the limit for the user `u1` whose usage is counted under this key.
fn left(node: &Node, key: &str) -> i64 {
    let body = format!(r#"{{"domain":"edge","attributes":{{"{key}":"u1"}},"hits":0}}"#);
    node.check(&body).json()["limits"][0]["remaining"].as_i64().unwrap()
}

#[test]
fn the_first_file_counts_addresses_users_and_bytes() {
    let node = node();
    let envoy = Gateway::deployed_envoy(&Setup::patient(vec![&node]));
    let get = |path: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nx-user: u1");
        Client::new(&envoy).send(head.as_bytes())
    };
    let answer = get("/");
    let shown = answer.headers.get("x-ratelimit-limit").map(String::as_str).unwrap_or_default();
    assert_eq!(shown, "10, 10;w=60;name=\"per-address\", 1000;w=3600;name=\"per-user\"", "{answer:?}");
    let before = left(&node, "downloader");
    assert_eq!(get("/downloads/file").status, 200);
    wait_for("the charge of the download", || (left(&node, "downloader") == before - 5).then_some(()));
}
