//! Measurements for `docs/gateways/results.md`. They print its tables:
//!
//!     export TIDEGATE_PROGRAM=target/release/tidegate
//!     cargo test --test gateways measure -- --ignored --nocapture --test-threads 1

use std::time::Duration;

use crate::client::Client;
use crate::gateway::{Gateway, all};
use crate::setup::{FailMode, Setup, node, replaced};
use crate::support::wait::elapsed;

const RULES: &str = "
version: 1
domains:
  - domain: web
    limits: [{ name: key, per: [api_key], limit: 1000000000, window: 1d, algorithm: fixed_window }]
  - domain: edge
    limits: [{ name: user, per: [user], limit: 1000000000, window: 1d, algorithm: fixed_window }]
";

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: x\r\nX-API-Key: k\r\nx-user: k";

/// An application that keeps its connections.
fn application() -> Gateway {
    Gateway::nginx(|port, _| format!("server {{ listen 127.0.0.1:{port}; location / {{ return 200 hello; }} }}"))
}

/// Removes the lines that begin with one of these.
fn without_lines(text: &str, starts: &[&str]) -> String {
    let kept = |line: &&str| !starts.iter().any(|start| line.trim_start().starts_with(start));
    text.lines().filter(kept).map(|line| format!("{line}\n")).collect()
}

/// Replaces what stands from `from` up to `to`.
fn between(text: &str, from: &str, to: &str, by: &str) -> String {
    let start = text.find(from).expect(from);
    let end = start + text[start..].find(to).expect(to);
    format!("{}{by}{}", &text[..start], &text[end..])
}

const FILTER: &str = "          - name: envoy.filters.http.ratelimit\n";
const ROUTER: &str = "          - name: envoy.filters.http.router\n";

/// The gateway without a limiter.
fn without(name: &str) -> fn(String) -> String {
    match name {
        "nginx" => |text| without_lines(&text, &["auth_request", "add_header"]),
        "caddy" => |text| between(&text, "\tforward_auth", "\treverse_proxy", ""),
        "haproxy" => |text| without_lines(&text, &["http-request lua"]),
        "kong" => |text| replaced(&text, "plugin:access(config)", ""),
        _ => |text| between(&text, FILTER, ROUTER, ""),
    }
}

/// Envoy with a limiter in its own memory.
fn local(text: String) -> String {
    let filter = "          - name: envoy.filters.http.local_ratelimit
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
              stat_prefix: local
              token_bucket: { max_tokens: 1000000000, tokens_per_fill: 1000000000, fill_interval: 1s }
              filter_enabled: { default_value: { numerator: 100, denominator: HUNDRED } }
              filter_enforced: { default_value: { numerator: 100, denominator: HUNDRED } }
";
    between(&text, FILTER, ROUTER, filter)
}

/// The times of requests of two clients in microseconds, each with `each` requests, sorted.
fn times(gateway: &Gateway, each: usize) -> Vec<u128> {
    let client = || {
        let mut client = Client::new(gateway);
        let mut time = || {
            let start = elapsed();
            assert_eq!(client.send(REQUEST).status, 200);
            (elapsed() - start).as_micros()
        };
        (0..each).map(|_| time()).collect::<Vec<_>>()
    };
    let mut all: Vec<u128> = std::thread::scope(|scope| {
        let clients = [scope.spawn(client), scope.spawn(client)];
        clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
    });
    all.sort_unstable();
    all
}

/// For each gateway the 50th and the 99th percentile in milliseconds: the medians of five turns, in which the gateways
/// take turns.
fn percentiles(gateways: &[Gateway]) -> Vec<[f64; 2]> {
    let mut turns = vec![Vec::new(); gateways.len()];
    for turn in 0..6 {
        for (gateway, turns) in gateways.iter().zip(&mut turns) {
            let times = times(gateway, 1000);
            // The first turn warms up.
            if turn > 0 {
                turns.push([50, 99].map(|percent| times[times.len() * percent / 100]));
            }
        }
    }
    let median = |turns: &Vec<[u128; 2]>, which: usize| {
        let mut values: Vec<u128> = turns.iter().map(|turn| turn[which]).collect();
        values.sort_unstable();
        values[values.len() / 2] as f64 / 1000.0
    };
    turns.iter().map(|turns| [median(turns, 0), median(turns, 1)]).collect()
}

#[test]
#[ignore = "a measurement"]
fn measure_added_latency() {
    let application = application();
    println!("\n| gateway | without: p50, p99 ms | with: p50, p99 ms | added: p50, p99 ms |\n|---|---|---|---|");
    for (name, start) in all() {
        let node = node(RULES);
        let with = |edit: fn(String) -> String| {
            let address = format!("127.0.0.1:{}", application.port);
            start(&Setup { application: address, edit, ..Setup::new(&node, FailMode::Closed) })
        };
        let mut gateways = vec![with(without(name)), with(|text| text)];
        if name == "envoy" {
            gateways.push(with(local));
        }
        let found = percentiles(&gateways);
        for (limited, which) in found[1..].iter().zip(["", ", its own local rate limit"]) {
            let [bare, added] = [found[0], [limited[0] - found[0][0], limited[1] - found[0][1]]];
            let pair = |[p50, p99]: [f64; 2]| format!("{p50:.2}, {p99:.2}");
            println!("| {name}{which} | {} | {} | {} |", pair(bare), pair(*limited), pair(added));
        }
    }
}

/// Four clients send a request every 5 ms for 4 s. After 1 s, one of two nodes gets a signal.
#[test]
#[ignore = "a measurement"]
fn measure_stopped_nodes() {
    let application = application();
    println!("\n| gateway | signal | requests | failed | longest, ms |\n|---|---|---|---|---|");
    for (name, start) in all() {
        for signal in ["TERM", "KILL", "STOP"] {
            let nodes = [node(RULES), node(RULES)];
            let setup = Setup::new(&nodes[0], FailMode::Closed);
            let address = format!("127.0.0.1:{}", application.port);
            let gateway = start(&Setup { application: address, nodes: nodes.iter().collect(), ..setup });
            let begin = elapsed();
            let client = || {
                let mut client = Client::new(&gateway);
                let mut answers = Vec::new();
                while elapsed() - begin < Duration::from_secs(4) {
                    let sent = elapsed();
                    let status = client.send(REQUEST).status;
                    answers.push((status, (elapsed() - sent).as_millis()));
                    std::thread::park_timeout(Duration::from_millis(5));
                }
                answers
            };
            let answers: Vec<(u16, u128)> = std::thread::scope(|scope| {
                let clients = [(); 4].map(|()| scope.spawn(client));
                std::thread::park_timeout(Duration::from_secs(1));
                nodes[0].signal(signal);
                clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
            });
            let failed = answers.iter().filter(|(status, _)| *status != 200).count();
            let longest = answers.iter().map(|(_, time)| time).max().unwrap();
            println!("| {name} | SIG{signal} | {} | {failed} | {longest} |", answers.len());
            nodes[0].signal("CONT");
        }
    }
}
