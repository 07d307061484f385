//! `tidegate bench`, on a node and on a server of Envoy's call that is none of ours.

mod node;

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use node::{Node, output};
use serde_json::Value;
use tidegate::api::proto::envoy::service::ratelimit::v3::rate_limit_service_server::{
    RateLimitService, RateLimitServiceServer,
};
use tidegate::api::proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use tonic::{Request, Response, Status};

const RULES: &str = "
version: 1
domains: [{ domain: api, limits: [{ name: l, per: [user], limit: 3, window: 1d, algorithm: fixed_window }] }]
";

fn node() -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, RULES).unwrap();
    (Node::dev(&["--rules", rules.to_str().unwrap()]), folder)
}

/// Runs `bench` with these further arguments: its exit code, and what it printed as JSON.
fn bench(addr: &str, arguments: &[&str]) -> (i32, Value) {
    let mut all = vec!["bench", "--addr", addr, "--output", "json"];
    all.extend(arguments);
    let done = output(&all);
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    (done.status.code().unwrap(), serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {said}")))
}

#[test]
fn every_call_asks_for_what_it_says_and_counts_what_comes_back() {
    let (node, _folder) = node();
    for call in ["envoy", "native", "batch", "stream", "http"] {
        let addr = if call == "http" { format!("http://{}", node.http) } else { format!("grpc://{}", node.grpc) };
        let (calls, checks) = if call == "batch" { ("20", 200) } else { ("200", 200) };
        let prefix = format!("{call}-");
        let common = ["--call", call, "--batch", "10", "--calls", calls, "--prefix", &prefix, "--keys"];
        let cycle = [&common[..], &["cycle:10", "--at-most", "3"]].concat();
        let (code, report) = bench(&addr, &cycle);
        let figures = ["sent", "admitted", "refused", "most_admitted_of_a_key"].map(|name| report[name].as_u64());
        assert_eq!((code, figures), (0, [Some(checks), Some(30), Some(checks - 30), Some(3)]), "{call}: {report}");
        let (code, report) = bench(&addr, &[&common[..], &["hot", "--domain", ""]].concat());
        assert_eq!(code, 1, "{call}: {report}");
        assert_eq!(report["failed"]["errors"], checks, "{call}: {report}");
    }
}

#[test]
fn more_than_a_limit_is_found() {
    let (node, _folder) = node();
    let addr = format!("grpc://{}", node.grpc);
    let (code, report) = bench(&addr, &["--calls", "50", "--threads", "2", "--at-most", "2"]);
    assert_eq!((code, report["most_admitted_of_a_key"].as_u64()), (1, Some(3)));
}

#[test]
fn runs_are_saved_compared_and_drawn() {
    let (node, folder) = node();
    let addr = format!("grpc://{}", node.grpc);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (save, plot, both) = (path("a.json"), path("a.svg"), path("both.svg"));
    let arguments = ["--rate", "400", "--duration", "1s", "--warm-up", "0s", "--save", &save, "--plot", &plot];
    let (code, report) = bench(&addr, &arguments);
    // Whatever comes back, as many are due.
    assert_eq!((code, report["calls"].as_u64().map(|calls| calls.abs_diff(400) <= 1)), (0, Some(true)), "{report}");
    let compared = output(&["bench", "compare", &save, &save, "--plot", &both, "--output", "json"]);
    let lines: Value = serde_json::from_slice(&compared.stdout).unwrap();
    assert_eq!((lines[0]["what"].as_str(), lines[0]["ratio"].as_f64()), (Some("checks/s"), Some(1.0)));
    for picture in [plot, both] {
        let text = std::fs::read_to_string(picture).unwrap();
        assert!(text.starts_with("<svg") && text.contains("Latency by percentile") && text.contains("polyline"));
    }
    let wrong = output(&["bench", "compare", &save, &path("nowhere.json")]);
    assert!(!wrong.status.success() && String::from_utf8_lossy(&wrong.stderr).contains("nowhere.json"));
}

#[test]
fn wrong_arguments_are_refused_before_anything_is_sent() {
    for (arguments, expected) in [
        (&["--keys", "warm"][..], "expected hot, uniform"),
        (&["--rate", "0"], "expected calls a second"),
        (&["--addr", "ftp://x"], "expected grpc://host:port"),
        (&["--call", "http"], "expected http://host:port"),
        (&["--addr", "grpc://127.0.0.1:1"], "refused"),
    ] {
        let done = output(&[&["bench"][..], arguments].concat());
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        assert!(!done.status.success() && said.contains(expected), "{arguments:?}: {said}");
    }
}

/// A server that is not Tidegate, and stands still once.
#[derive(Default)]
struct Plain {
    asked: AtomicU32,
}

const STANDS: Duration = Duration::from_millis(400);

#[tonic::async_trait]
impl RateLimitService for Plain {
    async fn should_rate_limit(&self, _: Request<RateLimitRequest>) -> Result<Response<RateLimitResponse>, Status> {
        if self.asked.fetch_add(1, Ordering::Relaxed) == 50 {
            tokio::time::sleep(STANDS).await;
        }
        Ok(Response::new(RateLimitResponse { overall_code: 1, ..RateLimitResponse::default() }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_open_loop_leaves_no_waiting_out() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = format!("grpc://{}", listener.local_addr().unwrap());
    let server = tonic::transport::Server::builder().add_service(RateLimitServiceServer::new(Plain::default()));
    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
    let run = move || {
        bench(
            &addr,
            &["--connections", "1", "--in-flight", "1", "--rate", "200", "--duration", "1s", "--warm-up", "0s"],
        )
    };
    let (code, report) = tokio::task::spawn_blocking(run).await.unwrap();
    assert_eq!((code, report["admitted"].as_u64() == report["calls"].as_u64()), (0, true), "{report}");
    // One call met the standing server; eighty were due meanwhile, half of which waited half of that time or longer.
    let p90 = report["latency_us"]["p90"].as_f64().unwrap();
    assert!(p90 >= STANDS.as_micros() as f64 / 4.0, "{report}");
}
