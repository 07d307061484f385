//! The binary as a user runs it.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

const TIDEGATE: &str = env!("CARGO_BIN_EXE_tidegate");

/// A running `tidegate dev`, ended with the test.
struct Node {
    child: Child,
    address: String,
}

impl Node {
    fn start() -> Self {
        // Free a moment ago; nobody else takes ports on this test's loopback.
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let address = format!("127.0.0.1:{port}");
        let child = Command::new(TIDEGATE).args(["dev", "--http", &address]).stderr(Stdio::null()).spawn().unwrap();
        let mut node = Self { child, address };
        let deadline = Instant::now() + Duration::from_secs(30);
        while node.request("GET /ready HTTP/1.1", "").is_none_or(|(status, _)| status != 200) {
            assert!(Instant::now() < deadline, "the node does not become ready");
            assert!(node.child.try_wait().unwrap().is_none(), "the node ended");
            std::thread::yield_now();
        }
        node
    }

    fn request(&self, line: &str, body: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.address).ok()?;
        let head = format!("{line}\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + body).as_bytes()).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let status = answer.split(' ').nth(1)?.parse().ok()?;
        Some((status, answer))
    }

    fn check(&self, body: &str) -> (u16, String) {
        self.request("POST /v1/check HTTP/1.1", body).unwrap()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn tidegate(args: &[&str]) -> Output {
    Command::new(TIDEGATE).args(args).output().unwrap()
}

#[test]
fn a_limit_of_five_admits_five_by_http_and_by_the_command_line() {
    let node = Node::start();
    let statuses: Vec<u16> = (0..6).map(|_| node.check(r#"{"domain":"demo","attributes":{"user":"u1"}}"#).0).collect();
    assert_eq!(statuses, [200, 200, 200, 200, 200, 429]);
    let url = format!("http://{}", node.address);
    let ask = || tidegate(&["check", "--addr", &url, "--domain", "demo", "user=u2"]).status.code().unwrap();
    assert_eq!([ask(), ask(), ask(), ask(), ask(), ask()], [0, 0, 0, 0, 0, 3]);
}

#[test]
fn a_wrong_request_is_told_every_error() {
    let node = Node::start();
    let (status, answer) = node.check(r#"{"hits":-1,"attributes":{"a/b":5},"more":1}"#);
    assert_eq!(status, 400);
    for expected in
        ["application/problem+json", "\"/domain\"", "\"/hits\"", "\"/attributes/a~1b\"", "\"/more\"", "quote it"]
    {
        assert!(answer.contains(expected), "{expected} is missing in {answer}");
    }
    let long = "x".repeat(4096);
    assert_eq!(node.check(&format!(r#"{{"domain":"demo","attributes":{{"user":"{long}"}}}}"#)).0, 200);
    assert_eq!(node.check(&format!(r#"{{"domain":"demo","attributes":{{"user":"{long}x"}}}}"#)).0, 400);
    assert_eq!(node.check(&" ".repeat(70_000)).0, 413);
    assert_eq!(node.check(r#"{"domain":"nobody"}"#).0, 200, "where no limit matches, a check passes");
}

#[test]
fn a_wrong_rule_file_is_refused_with_78() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rules.yaml");
    std::fs::write(&file, "version: 1\ndomains:\n  - domain: a\n    limits: [{ name: x }]\n").unwrap();
    let name = file.to_str().unwrap();
    for args in [&["rules", "validate", name][..], &["dev", "--rules", name]] {
        let output = tidegate(args);
        assert_eq!(output.status.code(), Some(78));
        let errors = String::from_utf8(output.stderr).unwrap();
        assert!(errors.contains("rules.yaml:4:14: domains[0].limits[0].per: expected"), "{errors}");
        assert!(errors.contains("domains[0].limits[0].window: expected"), "{errors}");
    }
}
