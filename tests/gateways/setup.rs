//! What a gateway stands between, and the files of `deploy/gateways` with the addresses of a test.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::path::Path;

use crate::support::node::Node;

/// What a gateway does with a request if no node answers.
#[derive(Clone, Copy, PartialEq)]
pub enum FailMode {
    Closed,
    Open,
}

impl FailMode {
    pub fn word(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
        }
    }
}

/// What a gateway stands between.
pub struct Setup<'s> {
    pub nodes: Vec<&'s Node>,
    pub application: String,
    pub fail_mode: FailMode,
    /// If true, a check may take ten seconds: on a shared machine a process may not run for longer than the deadline of
    /// the files.
    pub patient: bool,
    /// A last change of the gateway's configuration.
    pub edit: fn(String) -> String,
}

impl<'s> Setup<'s> {
    /// One node and an application of its own, with the deadlines of the files.
    pub fn new(node: &'s Node, fail_mode: FailMode) -> Self {
        Self { nodes: vec![node], application: application(), fail_mode, patient: false, edit: |text| text }
    }

    /// Nodes and an application of its own, with long deadlines. The gateway fails closed.
    pub fn patient(nodes: Vec<&'s Node>) -> Self {
        Self { nodes, application: application(), fail_mode: FailMode::Closed, patient: true, edit: |text| text }
    }

    /// A file of `deploy/gateways`, with the address of the application.
    pub fn file(&self, name: &str) -> String {
        let text = deployed(name).replace("127.0.0.1:8000", &self.application);
        if !self.patient {
            return text;
        }
        let longer = [
            ("250ms", "10s"),
            ("500ms", "20s"),
            ("0.25s", "10s"),
            ("timeout: 0.5s", "timeout: 20s"),
            ("timeout: 250", "timeout: 10000"),
        ];
        longer.into_iter().fold(text, |text, (from, to)| text.replace(from, to))
    }

    /// A line for each node.
    pub fn lines(&self, line: impl Fn(&str) -> String) -> String {
        self.nodes.iter().map(|node| line(&node.http) + "\n").collect()
    }
}

/// Returns a file of `deploy/gateways`.
pub fn deployed(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/gateways").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Replaces `from`, which must be there once.
pub fn replaced(text: &str, from: &str, to: &str) -> String {
    assert_eq!(text.matches(from).count(), 1, "{from}");
    text.replace(from, to)
}

/// Starts a node with these rules.
pub fn node(rules: &str) -> Node {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("rules.yaml");
    std::fs::write(&path, rules).unwrap();
    Node::dev(&["--rules", path.to_str().unwrap()])
}

/// Starts an application that answers every request with 200 and five bytes, and returns its address.
pub fn application() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    #[expect(clippy::disallowed_methods, reason = "it serves as long as the process of the tests lives")]
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let mut head = BufReader::new(&stream).split(b'\n').map_while(Result::ok);
            while head.next().is_some_and(|line| line != b"\r") {}
            let _ = (&stream).write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello");
        }
    });
    address
}

/// The port of an address.
pub fn port_of(address: &str) -> u16 {
    address.rsplit_once(':').and_then(|(_, port)| port.parse().ok()).expect("an address with a port")
}
