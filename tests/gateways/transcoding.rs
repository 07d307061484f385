//! Envoy translates JSON to the native gRPC calls, by `deploy/gateways/envoy/transcoding.yaml`.

use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::envoy::envoy;
use crate::support::node::{Node, Response, send_to};
use crate::support::servers::free_ports;
use crate::support::wait::wait_for;

const CONFIGURATION: &str = include_str!("../../deploy/gateways/envoy/transcoding.yaml");

/// Envoy before a node.
struct Transcoder {
    child: Child,
    address: String,
    _node: Node,
    _folder: tempfile::TempDir,
}

impl Transcoder {
    fn start() -> Self {
        let (node, folder) = (Node::dev(&[]), tempfile::tempdir().unwrap());
        // The command of the file, in the folder of the project.
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let words = CONFIGURATION.lines().find_map(|line| line.strip_prefix("#   protoc ")).unwrap();
        let descriptors = folder.path().join("tidegate.pb");
        let words = words.replace("tidegate.pb", &descriptors.display().to_string());
        let made = Command::new("protoc").args(words.split(' ')).current_dir(root).status();
        assert!(made.expect("protoc must be installed").success());
        let port = free_ports(1);
        let (_, grpc_port) = node.grpc.rsplit_once(':').unwrap();
        let configuration = CONFIGURATION
            .replace("port_value: 10000", &format!("port_value: {port}"))
            .replace("port_value: 8081", &format!("port_value: {grpc_port}"));
        let file = folder.path().join("envoy.yaml");
        std::fs::write(&file, configuration).unwrap();
        let mut command = Command::new(envoy());
        command.args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "error", "--config-path"]);
        let mut child = command.arg(&file).current_dir(folder.path()).stdin(Stdio::null()).spawn().unwrap();
        wait_for("Envoy", || {
            assert!(child.try_wait().unwrap().is_none(), "Envoy has ended");
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { child, address: format!("127.0.0.1:{port}"), _node: node, _folder: folder }
    }

    fn call(&self, method: &str, body: &str) -> Response {
        let head = format!("POST /tidegate.v1.RateLimitService/{method} HTTP/1.1\r\ncontent-type: application/json");
        send_to(&self.address, head.as_bytes(), body)
    }
}

impl Drop for Transcoder {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn json_is_translated_to_the_native_calls() {
    let envoy = Transcoder::start();
    let check = r#"{"domain":"demo","attributes":{"user":"u1"}}"#;
    // A call before Envoy knows that the node is there gets 503.
    let first = wait_for("an answer", || Some(envoy.call("Check", check)).filter(|answer| answer.status == 200));
    let limit = first.json()["limits"][0].clone();
    assert_eq!(
        (&first.json()["allowed"], &limit["limit"], &limit["remaining"]),
        (&true.into(), &"5".into(), &"4".into())
    );
    let batch = envoy.call("CheckBatch", &format!(r#"{{"checks":[{check},{check},{check},{check},{check}]}}"#));
    let results = batch.json()["results"].as_array().unwrap().clone();
    let allowed = results.iter().filter(|result| result["allowed"] == true).count();
    assert_eq!((results.len(), allowed), (5, 4));
    let denied = envoy.call("Check", check);
    assert_eq!((denied.status, &denied.json()["allowed"]), (200, &false.into()), "a denial is no error of the call");
    assert!(denied.json()["retry_after_ms"].is_string(), "JSON of protobuf has numbers of 64 bits as strings");
    let invalid = envoy.call("Check", r#"{"attributes":{"user":"u1"}}"#);
    assert_eq!(invalid.status, 400);
    assert!(invalid.header("grpc-message").is_some_and(|message| message.contains("domain")), "{invalid:?}");
    assert_eq!(envoy.call("Nothing", "{}").status, 404);
}
