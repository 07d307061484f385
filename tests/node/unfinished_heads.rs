//! Heads of requests over HTTP/1 that never end: what of them has arrived has a bound for each connection, and for all.

use std::io::Write;
use std::net::TcpStream;
use std::time::Duration;

use crate::node::wait_for;
use crate::victim::{CHECK, MAX_GROWTH_BYTES, Victim};

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

/// Waits until the node has read what its clients sent, as far as it reads it.
fn wait_until_memory_rests(victim: &Victim) -> f64 {
    let mut last = victim.growth();
    wait_for("the memory of the node to rest", || {
        std::thread::park_timeout(Duration::from_millis(300));
        let growth = victim.growth();
        let rests = (growth - last).abs() < 1e6;
        last = growth;
        rests.then_some(growth)
    })
}

#[test]
fn one_connection_holds_little_of_a_head() {
    let victim = Victim::new(&[]);
    let stalled = stall(&victim, 250, b"", 390_000);
    let growth = wait_until_memory_rests(&victim);
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
        let growth = wait_until_memory_rests(&victim);
        println!("memory grew by {growth} bytes, {} connections were closed", victim.closed("http", "heads"));
        assert!(growth < ARRIVING_BYTES + MAX_GROWTH_BYTES, "memory grew by {growth} bytes");
        // Usual heads of others take nothing of what is used up.
        let agent = format!("POST /v1/check HTTP/1.1\r\nuser-agent: {}", "y".repeat(8000));
        assert_eq!(victim.node.send(&agent, CHECK).status, 200);
        drop(stalled);
    }
}
