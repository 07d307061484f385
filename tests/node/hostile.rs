//! Clients that mean harm: what each can hold is bounded, what is cut off is counted, and others are served meanwhile.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::node::{Node, wait_for};
use bytes::Bytes;
use proto::tidegate::v1::CheckRequest;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use tonic::codegen::http;

const CHECK: &str = r#"{"domain":"d","attributes":{"user":"u"}}"#;
/// More than any of this may cost in all, in bytes.
const MEMORY: f64 = 64e6;

/// A node with little room, and its figures.
struct Victim {
    node: Node,
    memory: f64,
}

impl Victim {
    fn new(settings: &[(&str, &str)]) -> Self {
        let mut command =
            crate::node::tidegate(&["serve", "--log-format", "json", "--region", "r", "--store", "memory:"]);
        let folder = tempfile::tempdir().unwrap();
        let rules = folder.path().join("rules.yaml");
        let limit = "{ name: l, per: [user], limit: 1000000, window: 1d }";
        std::fs::write(&rules, format!("version: 1\ndomains: [{{ domain: d, limits: [{limit}] }}]\n")).unwrap();
        command.args(["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--rules"]).arg(&rules);
        let node = Node::start({
            command.envs(settings.iter().copied());
            command
        });
        let memory = node.metric("process_resident_memory_bytes ");
        Self { node, memory }
    }

    fn closed(&self, face: &str, reason: &str) -> f64 {
        self.node.metric(&format!(r#"tidegate_connections_closed_total{{face="{face}",reason="{reason}"}} "#))
    }

    /// Others are served, and memory is bounded.
    fn is_well(&self) {
        assert_eq!(self.node.check(CHECK).status, 200);
        let grown = self.node.metric("process_resident_memory_bytes ") - self.memory;
        assert!(grown < MEMORY, "{grown} bytes more");
    }

    fn connect(&self, address: &str) -> TcpStream {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(100))).unwrap();
        stream.set_write_timeout(Some(Duration::from_secs(20))).unwrap();
        stream
    }

    fn http(&self) -> TcpStream {
        self.connect(&self.node.http)
    }

    /// A connection of HTTP/2 that has begun.
    fn http2(&self) -> TcpStream {
        let mut stream = self.connect(&self.node.grpc);
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        stream.write_all(&frame(0x4, 0, 0, &[])).unwrap();
        stream
    }
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), body].concat()
}

const DATA: u8 = 0x0;
const HEADERS: u8 = 0x1;
const RESET: u8 = 0x3;
const CONTINUATION: u8 = 0x9;
const END_HEADERS: u8 = 0x4;
const END_STREAM: u8 = 0x1;

/// The head of a check over gRPC, in HPACK's plainest form (RFC 7541, section 6.2.2).
fn head() -> Vec<u8> {
    let mut head = vec![0x83, 0x86];
    let text = |head: &mut Vec<u8>, text: &str| {
        head.push(u8::try_from(text.len()).unwrap());
        head.extend(text.as_bytes());
    };
    head.push(0x04);
    text(&mut head, "/tidegate.v1.RateLimitService/Check");
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        head.push(0);
        text(&mut head, name);
        text(&mut head, value);
    }
    head
}

/// Writes as long as the other side takes it; says how many of `count` went out.
fn flood(stream: &mut TcpStream, count: u32, each: impl Fn(u32) -> Vec<u8>) -> u32 {
    // What is answered is read, so that nothing is held back for want of that.
    let mut answers = stream.try_clone().unwrap();
    #[expect(clippy::disallowed_methods, reason = "it is waited for")]
    let reader = std::thread::spawn(move || std::io::copy(&mut answers, &mut std::io::sink()));
    let sent = (0..count).take_while(|at| stream.write_all(&each(*at)).is_ok()).count();
    let _ = stream.shutdown(std::net::Shutdown::Both);
    let _ = reader.join().unwrap();
    u32::try_from(sent).unwrap()
}

#[test]
fn connections_that_do_not_fit_are_not_taken() {
    let victim = Victim::new(&[("TIDEGATE_LIMITS__MAX_CONNECTIONS", "20")]);
    let idle: Vec<TcpStream> = (0..20).map(|_| victim.connect(&victim.node.grpc)).collect();
    let open = || victim.node.metric(r#"tidegate_connections{face="grpc"} "#);
    wait_for("all of them", || (open() == 20.0).then_some(()));
    for _ in 0..10 {
        assert_eq!(victim.connect(&victim.node.grpc).read(&mut [0; 100]).unwrap_or(0), 0, "it is closed at once");
    }
    assert_eq!(victim.closed("grpc", "full"), 10.0);
    assert_eq!(victim.closed("grpc", "protocol"), 0.0);
    victim.is_well();
    // Those that say nothing are closed in time.
    wait_for("room", || (open() == 0.0).then_some(()));
    assert_eq!(victim.closed("grpc", "slow"), 20.0);
    drop(idle);
}

#[test]
fn streams_that_are_reset_at_once_end_their_connection() {
    let victim = Victim::new(&[]);
    let head = head();
    for round in 1..=3 {
        let mut stream = victim.http2();
        let sent = flood(&mut stream, 200_000, |at| {
            let id = 2 * at + 1;
            [frame(HEADERS, END_HEADERS, id, &head), frame(RESET, 0, id, &[0, 0, 0, 8])].concat()
        });
        assert!(sent < 200_000, "it was cut off");
        wait_for("its end to be counted", || (victim.closed("grpc", "protocol") >= f64::from(round)).then_some(()));
    }
    victim.is_well();
}

#[test]
fn heads_without_an_end_end_their_connection() {
    let victim = Victim::new(&[]);
    // A head that goes on and on (CONTINUATION flood).
    let mut stream = victim.connect(&victim.node.grpc);
    stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    wait_for("HTTP/1 at the wrong face to be counted", || (victim.closed("grpc", "protocol") == 1.0).then_some(()));
    let mut stream = victim.http2();
    stream.write_all(&frame(HEADERS, 0, 1, &head())).unwrap();
    // Each is a header that is named anew.
    let more = [&[0, 100][..], &[b'x'; 100], &[120], &[b'y'; 120]].concat().repeat(60);
    let sent = flood(&mut stream, 20_000, |_| frame(CONTINUATION, 0, 1, &more));
    assert!(sent < 20_000, "it was cut off");
    wait_for("its end to be counted", || (victim.closed("grpc", "protocol") >= 2.0).then_some(()));
    // The same over HTTP/1.
    let mut stream = victim.http();
    stream.write_all(b"GET /health HTTP/1.1\r\n").unwrap();
    let sent = flood(&mut stream, 200_000, |at| format!("x-{at}: {}\r\n", "y".repeat(200)).into_bytes());
    assert!(sent < 200_000, "it was cut off");
    wait_for("its end to be counted", || (victim.closed("http", "protocol") >= 1.0).then_some(()));
    victim.is_well();
}

#[test]
fn pings_and_settings_without_end_hold_nothing() {
    let victim = Victim::new(&[]);
    for each in [frame(0x6, 0, 0, &[0; 8]), frame(0x4, 0, 0, &[])] {
        // Answers are not read.
        let mut stream = victim.http2();
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        let many = each.repeat(1000);
        let sent = (0..2000).take_while(|_| stream.write_all(&many).is_ok()).count();
        assert!(sent < 2000, "it is read no further");
        victim.is_well();
    }
}

#[test]
fn bodies_without_an_end_are_cut_off() {
    let victim = Victim::new(&[]);
    let begin =
        "POST /v1/check HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
    // Fast: too large. Slow: too late.
    let mut fast = victim.http();
    fast.write_all(begin.as_bytes()).unwrap();
    let chunk = format!("4000\r\n{}\r\n", " ".repeat(0x4000));
    let mut slow: Vec<TcpStream> = (0..50).map(|_| victim.http()).collect();
    slow.iter_mut().for_each(|stream| stream.write_all(begin.as_bytes()).unwrap());
    while fast.write_all(chunk.as_bytes()).is_ok() {}
    let errors = || victim.node.metric(r#"rate_limiter_requests_total{status="error"} "#);
    wait_for("the fast one to be refused", || (errors() >= 1.0).then_some(()));
    victim.is_well();
    wait_for("the slow ones to be refused", || {
        slow.iter_mut().for_each(|stream| drop(stream.write_all(b"1\r\n \r\n")));
        (errors() >= 51.0).then_some(())
    });
    for stream in &mut slow {
        let mut answer = [0; 12];
        if stream.read_exact(&mut answer).is_ok() {
            assert_eq!(&answer, b"HTTP/1.1 408");
        }
    }
    victim.is_well();
}

#[test]
fn heads_that_come_a_byte_at_a_time_are_cut_off() {
    let victim = Victim::new(&[]);
    let mut slow: Vec<TcpStream> = (0..100).map(|_| victim.http()).collect();
    let head = b"GET /health HTTP/1.1\r\nx-slow: ";
    slow.iter_mut().for_each(|stream| stream.write_all(head).unwrap());
    // Others say nothing at all, or begin as HTTP/2 does and never go on.
    let mut silent: Vec<TcpStream> = (0..50).map(|_| victim.http()).collect();
    silent.iter_mut().take(25).for_each(|stream| stream.write_all(b"PRI * H").unwrap());
    let open = || victim.node.metric(r#"tidegate_connections{face="http"} "#);
    // Those who go away are not waited for.
    let gone: Vec<TcpStream> = (0..20).map(|_| victim.http()).collect();
    gone.iter().for_each(|mut stream| stream.write_all(b"P").unwrap());
    wait_for("all of them", || (open() >= 170.0).then_some(()));
    drop(gone);
    wait_for("the end of those who went", || (open() < 152.0).then_some(()));
    wait_for("all of them", || (open() >= 150.0).then_some(()));
    let (mut waited, mut seen) = (0, 0.0);
    while waited < 3000 && seen < 150.0 {
        slow.iter_mut().for_each(|stream| drop(stream.write_all(b"z")));
        std::thread::park_timeout(Duration::from_millis(50));
        victim.is_well();
        (waited, seen) = (waited + 1, victim.closed("http", "slow"));
    }
    assert!(seen >= 150.0, "{seen} were cut off");
}

/// As tonic and hyper do: before the server says how many calls may be under way, a hundred are sent.
#[test]
fn what_a_client_sends_before_it_is_told_how_much_it_may_is_answered() {
    let victim = Victim::new(&[("TIDEGATE_WORKERS", "1")]);
    let neighbours: Vec<TcpStream> = (0..20).map(|_| victim.http2()).collect();
    let open = || victim.node.metric(r#"tidegate_connections{face="grpc"} "#);
    wait_for("the neighbours", || (open() == 20.0).then_some(()));
    let check = [&[0, 0, 0, 0, 3][..], b"\x0a\x01d"].concat();
    let calls = (0..100).flat_map(|call| {
        let stream = 2 * call + 1;
        [frame(HEADERS, END_HEADERS, stream, &head()), frame(DATA, END_STREAM, stream, &check)].concat()
    });
    let begin = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(0x4, 0, 0, &[])].concat();
    let mut stream = victim.connect(&victim.node.grpc);
    stream.write_all(&begin.into_iter().chain(calls).collect::<Vec<u8>>()).unwrap();
    let (mut ended, mut reset) = (0, 0);
    while ended + reset < 100 {
        let mut head = [0; 9];
        stream.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        std::io::copy(&mut (&mut stream).take(length.into()), &mut std::io::sink()).unwrap();
        match head[3] {
            RESET => reset += 1,
            HEADERS | DATA if head[4] & END_STREAM != 0 => ended += 1,
            _ => {}
        }
    }
    assert_eq!((ended, reset), (100, 0));
    drop(neighbours);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_never_come_in_whole_are_bounded_together() {
    let victim = Victim::new(&[]);
    // Each a mebibyte without its last byte, 200 of them on each connection.
    let message = Bytes::from([&[0][..], &0xf_ffffu32.to_be_bytes(), &vec![0; 0xf_fff0]].concat());
    let mut held = Vec::new();
    for _ in 0..2 {
        let stream = tokio::net::TcpStream::connect(&victim.node.grpc).await.unwrap();
        let (mut client, connection) = h2::client::handshake(stream).await.unwrap();
        #[expect(clippy::disallowed_methods, reason = "it ends with the test's runtime")]
        tokio::spawn(connection);
        for _ in 0..200 {
            client = client.ready().await.unwrap();
            let request = http::Request::post("http://x/tidegate.v1.RateLimitService/Check")
                .header("content-type", "application/grpc")
                .body(())
                .unwrap();
            let (answer, mut body) = client.send_request(request, false).unwrap();
            body.send_data(message.clone(), false).unwrap();
            held.push((answer, body));
        }
    }
    let shed = || victim.node.metric(r#"tidegate_shed_total{reason="reading"} "#);
    tokio::task::block_in_place(|| wait_for("load to be shed", || (shed() >= 1.0).then_some(())));
    for _ in 0..20 {
        std::thread::park_timeout(Duration::from_millis(100));
    }
    let grown = victim.node.metric("process_resident_memory_bytes ") - victim.memory;
    assert!(grown < 64e6 + 2.0 * MEMORY, "{grown} bytes more");
    assert_eq!(victim.node.check(CHECK).status, 200, "others are served");
    let mut other = RateLimitServiceClient::connect(format!("http://{}", victim.node.grpc)).await.unwrap();
    let check = CheckRequest { domain: "d".to_owned(), ..CheckRequest::default() };
    assert!(other.check(check).await.unwrap().into_inner().allowed, "over gRPC, too");
}
