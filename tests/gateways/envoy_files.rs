//! The files of `deploy/gateways/envoy`, with a real Envoy.

use std::process::Command;

use crate::client::Client;
use crate::envoy::envoy;
use crate::gateway::Gateway;
use crate::setup::{FailMode, Setup, deployed, node, port_of, replaced};
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
    let application = address(port_of(&setup.application));
    let endpoint = |node: &&Node| format!("- endpoint: {{ address: {} }}", address(port_of(&node.grpc)));
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
        (Self::envoy_of(setup, &(setup.edit)(text), port), port)
    }

    /// Starts Envoy with this configuration, whose administration is at the port that follows.
    fn envoy_of(setup: &Setup<'_>, text: &str, port: u16) -> Self {
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
        gateway
    }
}

/// What is left of the limit for the user `u1` whose usage is counted under this key.
fn left(node: &Node, key: &str) -> i64 {
    let body = format!(r#"{{"domain":"edge","attributes":{{"{key}":"u1"}},"hits":0}}"#);
    node.check(&body).json()["limits"][0]["remaining"].as_i64().unwrap()
}

#[test]
fn the_first_file_counts_addresses_users_and_bytes() {
    let node = node(&deployed("envoy/rules.yaml"));
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

    // A client cannot choose its address.
    let from = |address: u8| {
        let head =
            format!("GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 192.0.2.{address}\r\nX-Real-IP: 192.0.2.{address}");
        Client::new(&envoy).send(head.as_bytes()).status
    };
    let statuses: Vec<u16> = (0..10).map(from).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 200, 200, 429]);
}

#[test]
fn the_second_file_limits_calls_connections_and_limits_of_metadata_and_gives_back() {
    let node = node(&deployed("envoy/rules.yaml"));
    let (envoy, port) = Gateway::envoy_with(&Setup::patient(vec![&node]), "envoy/advanced.yaml");
    let send = |path: &str, lines: &str| {
        let head = format!("GET {path} HTTP/1.1\r\nHost: x\r\nx-user: u1{lines}");
        Client::new(&envoy).send(head.as_bytes())
    };
    let status = |path: &str| send(path, "").status;

    assert_eq!(["/plan"; 3].map(status), [200, 200, 429], "the limit is that of the metadata, not that of the rules");

    assert_eq!(["/orders"; 4].map(status), [200, 200, 200, 429]);
    assert_eq!(status("/orders/cancel"), 200);
    // The next request may come to another core of the node, which hears of the refund a little later.
    wait_for("the refund", || (status("/orders") == 200).then_some(()));
    assert_eq!(status("/orders"), 429);

    assert_eq!(["/page"; 4].map(status), [200; 4]);
    let shadow = send("/page", "");
    assert_eq!(shadow.headers.get("x-tidegate-shadow").map(String::as_str), Some("visits"), "{shadow:?}");

    let call = "\r\ncontent-type: application/grpc\r\nte: trailers";
    let calls = [(); 4].map(|()| send("/shop.Orders/Create", call));
    assert!(calls.iter().take(3).all(|call| !call.headers.contains_key("grpc-status")), "{calls:?}");
    let resource_exhausted = Some("8");
    assert_eq!(calls[3].headers.get("grpc-status").map(String::as_str), resource_exhausted, "{calls:?}");

    // A connection that is denied ends without an answer.
    let tcp = [(); 4].map(|()| send_to(&format!("127.0.0.1:{}", port + 2), b"GET / HTTP/1.1", "").status);
    assert_eq!(tcp, [200, 200, 200, 0]);
}

#[test]
fn without_metadata_the_limit_is_that_of_the_rules() {
    let node = node(&deployed("envoy/rules.yaml"));
    let edit = |text: String| replaced(&text, "metadata_namespace: plan", "metadata_namespace: another");
    let (envoy, _) = Gateway::envoy_with(&Setup { edit, ..Setup::patient(vec![&node]) }, "envoy/advanced.yaml");
    let head = b"GET /plan HTTP/1.1\r\nHost: x\r\nx-user: u1";
    let statuses = [(); 11].map(|()| Client::new(&envoy).send(head).status);
    assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 429]);
}

const PATCHED: &str = include_str!("patched.yaml");

/// The values of a list of patches, in their order: a cluster, a filter and rate limits.
fn patched(name: &str) -> Vec<String> {
    let text = deployed(name);
    let mut values = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line == "      value:" {
            let block = std::iter::from_fn(|| lines.next_if(|line| line.starts_with("        ")));
            values.push(block.map(|line| format!("{}\n", &line[8..])).collect());
        }
    }
    values
}

/// Replaces a line that has only this word by a block with the same white space before each line.
fn with_block(text: &str, word: &str, block: &str) -> String {
    let line = text.lines().find(|line| line.trim() == word).expect(word);
    let space = line.strip_suffix(word).unwrap();
    let block: String = block.lines().map(|line| format!("{space}{line}\n")).collect();
    replaced(text, &format!("{line}\n"), &block)
}

/// What Envoy Gateway and Istio would give to Envoy. They need Kubernetes, so that only Envoy runs here.
#[test]
fn envoy_takes_what_the_files_for_kubernetes_patch_into_it() {
    for name in ["envoy/envoy-gateway.yaml", "envoy/istio.yaml"] {
        let [cluster, filter, rate_limits] = &patched(name)[..] else { panic!("{name}: expected three patches") };
        let rate_limits = rate_limits.strip_prefix("rate_limits:\n").unwrap_or(rate_limits);
        let node = node(&deployed("envoy/rules.yaml"));
        let setup = Setup::patient(vec![&node]);
        let port = free_ports(2);
        let host = "address: tidegate.tidegate.svc.cluster.local, port_value: 8081";
        let own = format!("address: 127.0.0.1, port_value: {}", port_of(&node.grpc));
        let places = [
            ("ADMIN", address(port + 1)),
            ("FRONT", address(port)),
            ("APPLICATION", address(port_of(&setup.application))),
        ];
        let text = places.iter().fold(PATCHED.to_owned(), |text, (word, place)| text.replace(word, place));
        let text = with_block(&text, "FILTER", filter);
        let text = with_block(&text, "LIMITS", rate_limits);
        let text = with_block(&text, "CLUSTER", &replaced(cluster, host, &own));
        let envoy = Gateway::envoy_of(&setup, &text, port);
        let statuses = [(); 11].map(|()| Client::new(&envoy).get(b"/", b"x").status);
        assert_eq!(statuses, [200, 200, 200, 200, 200, 200, 200, 200, 200, 200, 429], "{name}");
    }
}
