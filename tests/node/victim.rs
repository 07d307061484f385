//! A node under attack, and the parts of HTTP/2 that its attackers write by hand.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use bytes::Bytes;

use crate::node::{Node, wait_for};

pub const CHECK: &str = r#"{"domain":"d","attributes":{"user":"u"}}"#;
/// The maximum growth of the resident memory during a test, in bytes.
pub const MAX_GROWTH_BYTES: f64 = 64e6;

/// A node under attack.
pub struct Victim {
    pub node: Node,
    /// The resident memory before the attack, in bytes.
    initial_memory: f64,
}

impl Victim {
    pub fn new(settings: &[(&str, &str)]) -> Self {
        Self::with_limits(1, settings)
    }

    /// Starts a node with this many limits, which every check of a user matches.
    pub fn with_limits(count: usize, settings: &[(&str, &str)]) -> Self {
        let mut command =
            crate::node::tidegate(&["serve", "--log-format", "json", "--region", "r", "--store", "memory:"]);
        let folder = tempfile::tempdir().unwrap();
        let rules = folder.path().join("rules.yaml");
        let limit = |at| format!("{{ name: limit-{at:058}, per: [user], limit: 1000000, window: 1d }}");
        let limits = (0..count).map(limit).collect::<Vec<_>>().join(", ");
        std::fs::write(&rules, format!("version: 1\ndomains: [{{ domain: d, limits: [{limits}] }}]\n")).unwrap();
        command.args(["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--rules"]).arg(&rules);
        let node = Node::start({
            command.envs(settings.iter().copied());
            command
        });
        let initial_memory = node.metric("process_resident_memory_bytes ");
        Self { node, initial_memory }
    }

    /// Returns the number of connections that the node closed for this reason.
    pub fn closed(&self, face: &str, reason: &str) -> f64 {
        self.node.metric(&format!(r#"tidegate_connections_closed_total{{face="{face}",reason="{reason}"}} "#))
    }

    /// The growth of the resident memory since the start, in bytes.
    pub fn growth(&self) -> f64 {
        self.node.metric("process_resident_memory_bytes ") - self.initial_memory
    }

    /// Waits until the memory of the node rests. Returns its growth since the start, in bytes.
    pub fn growth_at_rest(&self) -> f64 {
        let mut last = self.growth();
        wait_for("the memory of the node to rest", || {
            std::thread::park_timeout(Duration::from_millis(300));
            let growth = self.growth();
            let rests = (growth - last).abs() < 1e6;
            last = growth;
            rests.then_some(growth)
        })
    }

    /// Asserts that the node serves other clients and that its memory is bounded.
    pub fn assert_healthy(&self) {
        assert_eq!(self.node.check(CHECK).status, 200);
        let grown = self.growth();
        assert!(grown < MAX_GROWTH_BYTES, "memory grew by {grown} bytes");
    }

    /// Opens a connection to one of the addresses of the node.
    pub fn connect(&self, address: &str) -> TcpStream {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    pub fn connect_http(&self) -> TcpStream {
        self.connect(&self.node.http)
    }

    /// Opens an HTTP/2 connection and sends the preface and the settings.
    pub fn connect_http2(&self) -> TcpStream {
        let mut stream = self.connect(&self.node.grpc);
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        stream.write_all(&frame(0x4, 0, 0, &[])).unwrap();
        stream
    }
}

/// Encodes an HTTP/2 frame (RFC 9113, section 4.1).
pub fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

pub const DATA: u8 = 0x0;
pub const HEADERS: u8 = 0x1;
pub const RESET: u8 = 0x3;
pub const CONTINUATION: u8 = 0x9;
pub const END_HEADERS: u8 = 0x4;
pub const END_STREAM: u8 = 0x1;

/// Encodes the headers of a gRPC call as HPACK literals without indexing (RFC 7541, section 6.2.2).
pub fn grpc_headers(call: &str) -> Vec<u8> {
    let mut headers = vec![0x83, 0x86];
    let push_text = |headers: &mut Vec<u8>, text: &str| {
        headers.push(u8::try_from(text.len()).unwrap());
        headers.extend(text.as_bytes());
    };
    headers.push(0x04);
    push_text(&mut headers, &format!("/tidegate.v1.RateLimitService/{call}"));
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        headers.push(0);
        push_text(&mut headers, name);
        push_text(&mut headers, value);
    }
    headers
}

/// Writes up to `count` messages until the node closes the connection. Returns the number of messages written.
pub fn flood(stream: &mut TcpStream, count: u32, message: impl Fn(u32) -> Vec<u8>) -> u32 {
    // The responses are read, so that the node is not blocked by a full send buffer.
    let mut responses = stream.try_clone().unwrap();
    #[expect(clippy::disallowed_methods, reason = "the thread is joined below")]
    let reader = std::thread::spawn(move || std::io::copy(&mut responses, &mut std::io::sink()));
    let sent = (0..count).take_while(|index| stream.write_all(&message(*index)).is_ok()).count();
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let _ = reader.join().unwrap();
    u32::try_from(sent).unwrap()
}

/// Opens an HTTP/2 connection that accepts `window` bytes of each answer until it accepts more. Returns its client and
/// its task.
pub async fn http2_client(
    address: &str,
    window: u32,
) -> (h2::client::SendRequest<Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (client, connection) = h2::client::Builder::new().initial_window_size(window).handshake(stream).await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
    let connection = tokio::spawn(connection);
    (client, connection)
}
