//! Attacks that a node withstands by the libraries that it uses, or by how it uses them.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use tonic::codegen::http::{HeaderMap, Request};

use crate::node::{TIDEGATE, send_to, wait_for};
use crate::victim::{DATA, END_HEADERS, HEADERS, Victim, flood, frame, grpc_headers, http2_client};

/// The text `{"domain":"d","attributes":{"user":"u"}}`, compressed by gzip.
const COMPRESSED_CHECK: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff\xabVJ\xc9\xcfM\xcc\xccS\xb2RJQ\xd2QJ,))\xcaL*-I-V\xb2\xaaV*-N-\x02J\x94*\xd5\xd6\x02\x00\xaa\xc5\xea\xd3(\x00\x00\x00";
/// The code of gRPC for a call that the server does not implement.
const UNIMPLEMENTED: &str = "12";

#[test]
fn endless_empty_data_frames_use_bounded_memory() {
    let victim = Victim::new(&[]);
    for path in ["Check", "CheckBatch", "CheckStream"] {
        let mut stream = victim.connect_http2();
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let opening = frame(HEADERS, END_HEADERS, 1, &grpc_headers(path));
        let empty = frame(DATA, 0, 1, &[]).repeat(100);
        flood(&mut stream, 20_000, |index| if index == 0 { opening.clone() } else { empty.clone() });
        victim.assert_healthy();
    }
}

#[test]
fn empty_data_frames_of_calls_that_wait_use_bounded_memory() {
    let victim = Victim::new(&[]);
    let mut stream = victim.connect_http2();
    stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
    // More batches than a connection may have at once. Nobody reads the body of the last one yet.
    let open = (0..20).map(|call| frame(HEADERS, END_HEADERS, 2 * call + 1, &grpc_headers("CheckBatch")));
    let opening: Vec<u8> = open.flatten().collect();
    let empty = frame(DATA, 0, 39, &[]).repeat(100);
    flood(&mut stream, 20_000, |index| if index == 0 { opening.clone() } else { empty.clone() });
    victim.assert_healthy();
}

/// Sends a gRPC message and returns the headers or the trailers that have its status.
async fn grpc_status(client: &mut SendRequest<Bytes>, encoding: &str, compressed: u8, message: &[u8]) -> HeaderMap {
    *client = client.clone().ready().await.unwrap();
    let request = Request::post("http://x/tidegate.v1.RateLimitService/Check")
        .header("content-type", "application/grpc")
        .header("grpc-encoding", encoding);
    let (answer, mut body) = client.send_request(request.body(()).unwrap(), false).unwrap();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    body.send_data(Bytes::from([&[compressed][..], &length, message].concat()), true).unwrap();
    let mut answer = answer.await.unwrap();
    if answer.headers().contains_key("grpc-status") {
        return answer.headers().clone();
    }
    while let Some(piece) = answer.body_mut().data().await {
        answer.body_mut().flow_control().release_capacity(piece.unwrap().len()).unwrap();
    }
    answer.body_mut().trailers().await.unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_that_arrives_is_decompressed() {
    let victim = Victim::new(&[]);
    let (mut client, _connection) = http2_client(&victim.node.grpc, 65_535).await;
    let status = grpc_status(&mut client, "gzip", 1, COMPRESSED_CHECK).await;
    assert_eq!(status["grpc-status"], UNIMPLEMENTED, "{status:?}");
    let (http, _connection) = http2_client(&victim.node.http, 65_535).await;
    let request = Request::post("http://x/v1/check").header("content-encoding", "gzip");
    let (answer, mut body) = http.ready().await.unwrap().send_request(request.body(()).unwrap(), false).unwrap();
    body.send_data(Bytes::from_static(COMPRESSED_CHECK), true).unwrap();
    assert_eq!(answer.await.unwrap().status(), 400);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deep_nesting_is_an_error() {
    let victim = Victim::new(&[]);
    for (open, close) in [("[", "]"), (r#"{"a":"#, "}")] {
        let deep = format!("{}1{}", open.repeat(10_000), close.repeat(10_000));
        for path in ["check", "checks"] {
            let head = format!("POST /v1/{path} HTTP/1.1\r\ncontent-type: application/json");
            let answer = tokio::task::block_in_place(|| victim.node.send(&head, &deep));
            assert_eq!(answer.status, 400, "{path}");
        }
    }
    // An unknown field is a group which begins another one, and so on.
    let (mut client, _connection) = http2_client(&victim.node.grpc, 65_535).await;
    let status = grpc_status(&mut client, "identity", 0, &[0x7b; 100_000]).await;
    assert_ne!(status["grpc-status"], "0");
    tokio::task::block_in_place(|| victim.assert_healthy());
}

#[test]
fn no_client_writes_a_line_of_the_log() {
    let free = || std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    let (http, grpc) = (free(), free());
    let mut node = Command::new(TIDEGATE)
        .args(["dev", "--http", &http, "--grpc", &grpc, "--log-format", "text"])
        .env_clear()
        .env("TIDEGATE_LOG__LEVEL", "debug")
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let reachable = || std::net::TcpStream::connect(&http).is_ok();
    let ready = || (reachable() && send_to(&http, b"GET /ready HTTP/1.1", "").status == 200).then_some(());
    wait_for("readiness", ready);
    let name = "evil\\nERROR forged \\u001b[31m";
    let body = format!(r#"{{"domain":"demo","attributes":{{"{name}":"{}"}}}}"#, "x".repeat(5000));
    let json = "POST /v1/check HTTP/1.1\r\ncontent-type: application/json";
    assert_eq!(send_to(&http, json.as_bytes(), &body).status, 400);
    let line =
        b"GET /v1/authorize?domain=demo HTTP/1.1\r\nx-forwarded-for: \xff ERROR forged\r\nx-request-id: ERROR forged";
    assert_eq!(send_to(&http, line, "").status, 200);
    node.kill().unwrap();
    node.wait().unwrap();
    let mut log = Vec::new();
    node.stderr.take().unwrap().read_to_end(&mut log).unwrap();
    let log = String::from_utf8_lossy(&log);
    let forged: Vec<&str> = log.lines().filter(|line| line.starts_with("ERROR")).collect();
    assert!(forged.is_empty(), "{forged:?}");
    assert!(log.contains("ERROR forged"), "what the client sent is in the log: {log}");
    assert!(!log.contains("\u{1b}[31m"), "escape sequences of terminals are escaped");
}
