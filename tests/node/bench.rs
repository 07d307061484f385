//! `tidegate bench` against a node, and against another server that implements Envoy's rate limit service.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::node::{Node, output};
use proto::Checked;
use proto::envoy::service::ratelimit::v3::rate_limit_service_server::{RateLimitService, RateLimitServiceServer};
use proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use serde_json::Value;
use tonic::{Request, Response, Status};

const RULES: &str = "
version: 1
domains: [{ domain: api, limits: [{ name: l, per: [user], limit: 3, window: 1d, algorithm: fixed_window }] }]
";

/// Starts a node whose only limit admits 3 hits per user.
fn start_node() -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, RULES).unwrap();
    (Node::dev(&["--rules", rules.to_str().unwrap()]), folder)
}

/// Runs `bench` with additional arguments. Returns its exit code and the report that it printed as JSON.
fn run_bench(addr: &str, arguments: &[&str]) -> (i32, Value) {
    let mut all = vec!["bench", "--addr", addr, "--output", "json"];
    all.extend(arguments);
    let result = output(&all);
    let errors = String::from_utf8_lossy(&result.stderr).into_owned();
    let report = serde_json::from_slice(&result.stdout).unwrap_or_else(|e| panic!("{e}: {errors}"));
    (result.status.code().unwrap(), report)
}

#[test]
fn every_kind_of_call_counts_its_answers() {
    let (node, _folder) = start_node();
    for call in ["envoy", "native", "batch", "stream", "http"] {
        let addr = if call == "http" { format!("http://{}", node.http) } else { format!("grpc://{}", node.grpc) };
        let (calls, checks) = if call == "batch" { ("20", 200) } else { ("200", 200) };
        let prefix = format!("{call}-");
        let size = if call == "batch" { &["--batch", "10"][..] } else { &[] };
        let common = [size, &["--call", call, "--calls", calls, "--prefix", &prefix, "--keys"]].concat();
        let cycle = [&common[..], &["cycle:10", "--at-most", "3"]].concat();
        let (code, report) = run_bench(&addr, &cycle);
        let figures = ["sent", "admitted", "refused", "most_admitted_of_a_key"].map(|name| report[name].as_u64());
        assert_eq!((code, figures), (0, [Some(checks), Some(30), Some(checks - 30), Some(3)]), "{call}: {report}");
        let (code, report) = run_bench(&addr, &[&common[..], &["hot", "--domain", ""]].concat());
        assert_eq!(code, 1, "{call}: {report}");
        assert_eq!(report["failed"]["errors"], checks, "{call}: {report}");
        assert!(report["failed"]["first"].as_str().unwrap().contains("domain"), "{call}: {report}");
        assert_eq!((&report["calls"], &report["latency_us"]["max"]), (&0.into(), &Value::Null), "errors are not timed");
    }
}

#[test]
fn a_run_fails_if_more_checks_of_a_key_are_admitted_than_at_most() {
    let (node, _folder) = start_node();
    let addr = format!("grpc://{}", node.grpc);
    let (code, report) = run_bench(&addr, &["--calls", "50", "--threads", "2", "--at-most", "2"]);
    assert_eq!((code, report["most_admitted_of_a_key"].as_u64()), (1, Some(3)));
}

#[test]
fn runs_are_saved_compared_and_plotted() {
    let (node, folder) = start_node();
    let addr = format!("grpc://{}", node.grpc);
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (save, plot, both) = (path("a.json"), path("a.svg"), path("both.svg"));
    let arguments = ["--rate", "400", "--duration", "1s", "--warm-up", "0s", "--save", &save, "--plot", &plot];
    let (code, report) = run_bench(&addr, &arguments);
    // 400 calls are due however fast the server answers, and each second of the series counts its share.
    assert_eq!((code, report["calls"].as_u64()), (0, Some(400)), "{report}");
    let checks_by_second =
        report["each_second"].as_array().unwrap().iter().map(|second| second["checks"].as_u64().unwrap());
    assert_eq!(checks_by_second.sum::<u64>(), report["checks"].as_u64().unwrap(), "{report}");
    let compared = output(&["bench", "compare", &save, &save, "--plot", &both, "--output", "json"]);
    let lines: Value = serde_json::from_slice(&compared.stdout).unwrap();
    assert_eq!(
        (lines["lines"][0]["what"].as_str(), lines["lines"][0]["ratio"].as_f64()),
        (Some("checks/s"), Some(1.0))
    );
    for file in [plot, both] {
        let text = std::fs::read_to_string(file).unwrap();
        assert!(text.starts_with("<svg") && text.contains("Latency by percentile") && text.contains("polyline"));
    }
    let result = output(&["bench", "compare", &save, &path("nowhere.json")]);
    assert!(!result.status.success() && String::from_utf8_lossy(&result.stderr).contains("nowhere.json"));
}

#[test]
fn invalid_arguments_are_reported_before_a_call_is_sent() {
    for (arguments, expected) in [
        (&["--keys", "warm"][..], "expected hot, uniform"),
        (&["--rate", "0"], "calls per second"),
        (&["--addr", "ftp://x"], "expected grpc://host:port"),
        (&["--call", "http"], "expected http://host:port"),
        (&["--addr", "grpc://127.0.0.1:1"], "refused"),
        (&["--addr", "grpc://127.0.0.1:1/path"], "expected a scheme, a host and a port"),
        (&["--addr", "http://127.0.0.1:1"], "expected grpc://host:port"),
        (&["--batch", "5"], "expected with --call batch only"),
        (&["--calls", "5", "--warm-up", "1s"], "cannot be used with"),
        (&["--duration", "0s"], "expected a duration above zero"),
        (&["--keys", "uniform:1000000000", "--at-most", "5"], "expected at most"),
    ] {
        let result = output(&[&["bench"][..], arguments].concat());
        let errors = String::from_utf8_lossy(&result.stderr).into_owned();
        assert!(!result.status.success() && errors.contains(expected), "{arguments:?}: {errors}");
    }
}

/// A server that admits every check and stalls once, in its 51st call.
#[derive(Default)]
struct StallingServer {
    calls: AtomicU32,
}

const STALL: Duration = Duration::from_millis(400);

#[tonic::async_trait]
impl RateLimitService for StallingServer {
    async fn should_rate_limit(
        &self,
        _: Request<Checked<RateLimitRequest>>,
    ) -> Result<Response<RateLimitResponse>, Status> {
        if self.calls.fetch_add(1, Ordering::Relaxed) == 50 {
            tokio::time::sleep(STALL).await;
        }
        Ok(Response::new(RateLimitResponse { overall_code: 1, ..RateLimitResponse::default() }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_loop_latencies_include_the_waiting_time() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = format!("grpc://{}", listener.local_addr().unwrap());
    let server =
        tonic::transport::Server::builder().add_service(RateLimitServiceServer::new(StallingServer::default()));
    #[expect(clippy::disallowed_methods, reason = "the server ends with the test")]
    tokio::spawn(server.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
    let run = move || {
        run_bench(
            &addr,
            &["--connections", "1", "--in-flight", "1", "--rate", "200", "--duration", "1s", "--warm-up", "0s"],
        )
    };
    let (code, report) = tokio::task::spawn_blocking(run).await.unwrap();
    assert_eq!((code, report["admitted"].as_u64() == report["calls"].as_u64()), (0, true), "{report}");
    // One call met the stall. Eighty calls were due meanwhile, and half of them waited at least half of the stall.
    let p90 = report["latency_us"]["p90"].as_f64().unwrap();
    assert!(p90 >= STALL.as_micros() as f64 / 4.0, "{report}");
}

#[test]
fn unanswered_calls_and_lost_connections_are_counted_separately() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = format!("grpc://{}", silent.local_addr().unwrap());
    let (code, report) = run_bench(&addr, &["--connections", "1", "--in-flight", "3", "--calls", "9"]);
    let failed = &report["failed"];
    assert_eq!((code, &failed["unanswered"], &failed["unsent"]), (1, &3.into(), &0.into()), "{report}");
    assert!(failed["first"].as_str().unwrap().contains("no answer"), "{report}");

    for call in ["envoy", "stream"] {
        let (mut node, _folder) = start_node();
        let addr = format!("grpc://{}", node.grpc);
        #[expect(clippy::disallowed_methods, reason = "the thread is joined below")]
        let run = std::thread::spawn(move || {
            run_bench(
                &addr,
                &["--call", call, "--rate", "500", "--duration", "2s", "--warm-up", "0s", "--connections", "2"],
            )
        });
        let allowed = || node.metric("rate_limiter_requests_total{status=\"allowed\"} ");
        crate::node::wait_for("the first calls", || (allowed() > 0.0).then_some(()));
        node.signal("KILL");
        node.child.wait().unwrap();
        let (code, report) = run.join().unwrap();
        let failed = &report["failed"];
        let failed_calls: u64 = ["connection", "unsent"].map(|kind| failed[kind].as_u64().unwrap()).iter().sum();
        let answered = report["checks"].as_u64().unwrap();
        assert_eq!((code, &failed["unanswered"]), (1, &0.into()), "{call}: {report}");
        assert!(
            failed_calls > 0 && failed_calls + answered == 1000,
            "every call was answered or failed: {call}: {report}"
        );
        let rate = report["per_second"].as_f64().unwrap();
        assert!(rate <= answered as f64 / 2.0 + 1.0, "the time without answers counts: {call}: {report}");
    }
}

#[test]
fn unanswered_calls_count_in_the_latencies() {
    let (mut node, _folder) = start_node();
    let runs = ["envoy", "stream", "http"].map(|call| {
        let addr = if call == "http" { format!("http://{}", node.http) } else { format!("grpc://{}", node.grpc) };
        let arguments = ["--call", call, "--rate", "200", "--duration", "2s", "--warm-up", "0s", "--in-flight", "10"];
        #[expect(clippy::disallowed_methods, reason = "the thread is joined below")]
        let run = std::thread::spawn(move || run_bench(&addr, &arguments));
        (call, run)
    });
    let allowed = || node.metric("rate_limiter_requests_total{status=\"allowed\"} ");
    crate::node::wait_for("the first calls", || (allowed() > 0.0).then_some(()));
    node.signal("STOP");
    for (call, run) in runs {
        let (code, report) = run.join().unwrap();
        let failed = &report["failed"];
        let counts = ["unanswered", "unsent"].map(|kind| failed[kind].as_u64().unwrap());
        assert!(code == 1 && counts.iter().all(|count| *count > 0), "{call}: {report}");
        // Most of the due calls got no answer, and the tool waited for them beyond the end of the run.
        let p90 = report["latency_us"]["p90"].as_f64().unwrap();
        assert!(p90 > 1e6, "{call}: {report}");
        assert_eq!(
            report["each_second"].as_array().unwrap().len(),
            2,
            "seconds without answers are reported: {call}: {report}"
        );
    }
    node.child.kill().unwrap();
}

#[test]
fn an_interrupted_run_reports_what_it_measured() {
    let (node, folder) = start_node();
    let save = folder.path().join("a.json");
    let addr = format!("grpc://{}", node.grpc);
    let mut run =
        crate::node::tidegate(&["bench", "--addr", &addr, "--warm-up", "0s", "--save", save.to_str().unwrap()]);
    let mut child = run.stderr(std::process::Stdio::piped()).stdout(std::process::Stdio::null()).spawn().unwrap();
    crate::node::wait_for("the first calls", || {
        (node.metric("rate_limiter_requests_total{status=\"blocked\"} ") > 0.0).then_some(())
    });
    let kill = std::process::Command::new("kill").args(["-s", "INT", &child.id().to_string()]).status().unwrap();
    assert!(kill.success());
    let mut errors = String::new();
    std::io::Read::read_to_string(child.stderr.as_mut().unwrap(), &mut errors).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1), "{errors}");
    assert!(errors.contains("interrupted"), "{errors}");
    let saved: Value = serde_json::from_slice(&std::fs::read(save).unwrap()).unwrap();
    assert!(saved["interrupted"] == true && saved["refused"].as_u64() > Some(0), "{saved}");
}
