//! Heads of requests that never end: what of them has arrived has a bound for each connection, and for all.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use crate::node::wait_for;
use crate::victim::{CHECK, CONTINUATION, HEADERS, MAX_GROWTH_BYTES, Victim, frame, grpc_headers};

const HEAD: &[u8] = b"GET /health HTTP/1.1\r\nx-long: ";
/// The budget of a listener for requests that are arriving, in bytes. Buffers may be twice as large as what is in them.
const ARRIVING_BYTES: f64 = 2.0 * 64e6;

/// Opens connections that each send `first`, and then `length` bytes of a head that does not end.
fn stall(victim: &Victim, connections: usize, first: &[u8], length: usize) -> Vec<TcpStream> {
    let beginning = [first, HEAD, &vec![b'z'; length]].concat();
    let open = |_| {
        let mut stream = victim.connect_http();
        stream.set_write_timeout(Some(Duration::from_secs(1))).unwrap();
        // The node may close the connection meanwhile.
        let _ = stream.write_all(&beginning);
        stream
    };
    (0..connections).map(open).collect()
}

#[test]
fn one_connection_holds_little_of_a_head() {
    let victim = Victim::new(&[]);
    let stalled = stall(&victim, 250, b"", 390_000);
    let growth = victim.growth_at_rest();
    println!("{} bytes for each connection", growth / 250.0);
    assert!(growth < 250.0 * 200e3, "memory grew by {growth} bytes");
    wait_for("heads that are too long to be refused", || (victim.closed("http", "protocol") >= 1.0).then_some(()));
    drop(stalled);
}

#[test]
fn unfinished_heads_have_a_common_bound() {
    // The second head is read together with the first request.
    for first in ["", "GET /health HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let victim = Victim::new(&[]);
        let stalled = stall(&victim, 1500, first.as_bytes(), 80_000);
        wait_for("connections to be closed", || (victim.closed("http", "heads") >= 1.0).then_some(()));
        let growth = victim.growth_at_rest();
        println!("memory grew by {growth} bytes, {} connections were closed", victim.closed("http", "heads"));
        assert!(growth < ARRIVING_BYTES + MAX_GROWTH_BYTES, "memory grew by {growth} bytes");
        // Usual heads of others take nothing of what is used up.
        let agent = format!("POST /v1/check HTTP/1.1\r\nuser-agent: {}", "y".repeat(8000));
        assert_eq!(victim.node.send(&agent, CHECK).status, 200);
        drop(stalled);
    }
}

#[test]
fn unfinished_heads_over_http2_have_a_common_bound() {
    const CONNECTIONS: usize = 2200;
    let victim = Victim::new(&[]);
    // A field without indexing, with a name of one byte and a value of a hundred.
    let fields = [&[0, 1, b'x', 100][..], &[b'z'; 100]].concat().repeat(150);
    let preface = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frame(0x4, 0, 0, &[])].concat();
    let head = [frame(HEADERS, 0, 1, &grpc_headers("Check")), frame(CONTINUATION, 0, 1, &fields).repeat(3)].concat();
    let open = |_| {
        let mut stream = victim.connect_http();
        // The node may close the connection meanwhile.
        let _ = stream.write_all(&preface).and_then(|()| stream.write_all(&head));
        stream
    };
    let stalled: Vec<TcpStream> = (0..CONNECTIONS).map(open).collect();
    let growth = victim.growth_at_rest();
    let closed = victim.closed("http", "heads");
    println!("memory grew by {growth} bytes, {closed} connections were closed");
    assert!(growth < ARRIVING_BYTES + MAX_GROWTH_BYTES, "memory grew by {growth} bytes");
    assert!(closed >= 1.0 && victim.node.check(CHECK).status == 200);
    drop(stalled);
}
