//! What every gateway does under load, and while nodes are stopped, slow or fewer.

use std::time::Duration;

use crate::client::{Client, Response};
use crate::gateway::{Gateway, all};
use crate::setup::{FailMode, Setup, node, replaced};
use crate::support::node::Node;
use crate::support::wait::wait_for;

/// Forward-auth asks the domain `web`, and Envoy the domain `edge`.
const RULES: &str = "
version: 1
domains:
  - domain: web
    limits:
      - { name: key, match: { api_key: { prefix: k } }, per: [api_key], limit: 1000, window: 1d,
          algorithm: fixed_window, consistency: exact }
      - { name: blocked, match: { api_key: blocked }, per: [], limit: 0, window: 1h }
  - domain: edge
    limits:
      - { name: key, match: { user: { prefix: k } }, per: [user], limit: 1000, window: 1d,
          algorithm: fixed_window, consistency: exact }
      - { name: blocked, match: { user: blocked }, per: [], limit: 0, window: 1h }
";

/// Sends a request with this key and further header lines.
fn send(client: &mut Client, key: &str, lines: &[u8]) -> Response {
    let head = format!("GET / HTTP/1.1\r\nHost: x\r\nX-API-Key: {key}\r\nx-user: {key}");
    client.send(&[head.as_bytes(), lines].concat())
}

/// Gateways wait half a second for a check, and far longer if a file sets no deadline.
const DEADLINE: Duration = Duration::from_secs(20);

fn status(gateway: &Gateway, key: &str) -> u16 {
    send(&mut Client::with_timeout(gateway, DEADLINE), key, b"").status
}

/// The statuses of requests of eight clients at once, each with `each` requests. `during` runs meanwhile.
fn load(gateway: &Gateway, key: &str, each: usize, during: impl FnOnce()) -> Vec<u16> {
    std::thread::scope(|scope| {
        let client = || {
            let mut client = Client::new(gateway);
            (0..each).map(|_| send(&mut client, key, b"").status).collect::<Vec<_>>()
        };
        let clients: Vec<_> = (0..8).map(|_| scope.spawn(client)).collect();
        during();
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    })
}

/// Stops every thread of a node, so that it answers nothing.
fn stand_still(node: &Node) {
    node.signal("STOP");
    let stopped = |task: std::fs::DirEntry| {
        let stat = std::fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    };
    wait_for("the node to stand still", || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", node.child.id())).unwrap();
        tasks.map_while(Result::ok).all(stopped).then_some(())
    });
}

#[test]
fn a_gateway_admits_exactly_the_limit_of_5000_requests() {
    for (name, start) in all() {
        let node = node(RULES);
        let gateway = start(&Setup::patient(vec![&node]));
        let statuses = load(&gateway, "k", 625, || ());
        let count = |status: u16| statuses.iter().filter(|known| **known == status).count();
        assert_eq!((count(200), count(429)), (1000, 4000), "{name}");
    }
}

#[test]
fn the_failure_mode_decides_while_the_limiter_is_slow_or_stopped() {
    for (name, start) in all() {
        for mode in [FailMode::Closed, FailMode::Open] {
            let mut node = node(RULES);
            let gateway = start(&Setup::new(&node, mode));
            let expect = |state: &str| {
                let status = status(&gateway, "k");
                let expected = match mode {
                    FailMode::Closed => 500..600,
                    FailMode::Open => 200..201,
                };
                assert!(expected.contains(&status), "{name}, {}, {state}: {status}", mode.word());
            };
            let denies = || {
                wait_for("a denial", || (status(&gateway, "blocked") == 429).then_some(()));
                wait_for("a check that is allowed", || (status(&gateway, "k") == 200).then_some(()));
            };
            denies();
            stand_still(&node);
            expect("slow");
            expect("slow again");
            node.signal("CONT");
            denies();
            node.child.kill().unwrap();
            node.child.wait().unwrap();
            expect("stopped");
            expect("stopped again");
        }
    }
}

/// A client must not be able to make its own check fail.
#[test]
fn no_request_opens_a_gateway_that_fails_open() {
    for (name, start) in all() {
        let node = node(RULES);
        let gateway = start(&Setup { patient: true, ..Setup::new(&node, FailMode::Open) });
        let rejected = |lines: &[u8], what: &str| {
            let status = send(&mut Client::new(&gateway), "blocked", lines).status;
            assert!((400..600).contains(&status), "{name}: {status} for {what}");
        };
        rejected(b"", "a denial");
        for size in
            (13_000..17_000).step_by(250).chain([31_000, 60_000, 66_000, 390_000, 410_000, 500_000, 900_000, 1_040_000])
        {
            rejected(&[b"\r\nUser-Agent: ", "x".repeat(size).as_bytes()].concat(), &format!("{size} bytes"));
        }
        let many: String = (0..6000).map(|_| "\r\na:b").collect();
        rejected(many.as_bytes(), "6,000 headers");
        // A node refuses such a head before it has read all of it. What a gateway sees then is a matter of chance.
        let long: String = (0..1100).map(|_| format!("\r\na: {}", "x".repeat(900))).collect();
        for _ in 0..20 {
            rejected(long.as_bytes(), "1,100 headers of 900 bytes");
        }
        rejected(b"\r\nUser-Agent: \x01", "a control character");
        rejected(b"\r\nX-Request-Id: \xff", "a byte that is not UTF-8");
    }
}

#[test]
fn a_node_that_ends_costs_no_request_if_another_is_there() {
    for (name, start) in all() {
        for signal in ["TERM", "KILL"] {
            let nodes = [node(RULES), node(RULES)];
            let gateway = start(&Setup::patient(nodes.iter().collect()));
            let served = |node: &Node| {
                let checks = node.metric(r#"rate_limiter_requests_total{status="allowed"} "#);
                (checks >= 10.0).then_some(())
            };
            let statuses = load(&gateway, "k", 100, || {
                wait_for("checks of both nodes", || served(&nodes[0]).and(served(&nodes[1])));
                nodes[0].signal(signal);
            });
            let failed = statuses.iter().filter(|status| **status != 200).count();
            assert_eq!(failed, 0, "{name}, SIG{signal}: {statuses:?}");
        }
    }
}

#[test]
fn a_caddy_that_fails_open_lets_no_other_error_pass() {
    let node = node(RULES);
    let edit = |text: String| replaced(&text, "\troute {\n", "\troute {\n\t\terror /private 401\n");
    let caddy = Gateway::deployed_caddy(&Setup { edit, ..Setup::new(&node, FailMode::Open) });
    assert_eq!(Client::new(&caddy).get(b"/private", b"x").status, 401);
}
