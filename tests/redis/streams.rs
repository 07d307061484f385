//! `CheckStream` on a running node.

use std::time::Duration;

use futures_util::stream::{FuturesUnordered, StreamExt as _};

use crate::node::{Node, wait_for};
use crate::servers::{SingleServer, redis_cli};
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use proto::tidegate::v1::{CheckRequest, CheckResponse, Descriptor};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Streaming};

const RULES: &str = "
version: 1
domains:
  - domain: d
    limits:
      - { name: three, match: { user: { present: true } }, per: [user], limit: 3, window: 1d, algorithm: fixed_window, consistency: exact }
      - { name: none, match: { path: /none }, per: [], limit: 0, window: 1s }
      - { name: free, match: { path: /free }, per: [], limit: unlimited, window: 1s }
";

fn rules() -> (tempfile::TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, RULES).unwrap();
    (folder, rules)
}

fn dev() -> (Node, tempfile::TempDir) {
    let (folder, rules) = rules();
    (Node::dev(&["--rules", rules.to_str().unwrap()]), folder)
}

/// Opens a connection to `node` and a stream on it. Returns the channel, the sender of requests, and the answers.
async fn open_stream(node: &Node) -> (Channel, mpsc::Sender<CheckRequest>, Streaming<CheckResponse>) {
    let channel = Endpoint::from_shared(format!("http://{}", node.grpc)).unwrap().connect().await.unwrap();
    let (requests, received) = mpsc::channel(1);
    let answers =
        RateLimitServiceClient::new(channel.clone()).check_stream(ReceiverStream::new(received)).await.unwrap();
    (channel, requests, answers.into_inner())
}

fn request(id: &str, attribute: &str, value: &str) -> CheckRequest {
    let attributes = [(attribute.to_owned(), value.to_owned())].into();
    CheckRequest { domain: "d".to_owned(), attributes, request_id: id.to_owned(), ..CheckRequest::default() }
}

async fn next(answers: &mut Streaming<CheckResponse>) -> Option<CheckResponse> {
    tokio::time::timeout(Duration::from_secs(30), answers.message())
        .await
        .expect("timed out waiting for an answer")
        .unwrap()
}

#[tokio::test]
async fn each_request_has_an_answer_with_its_id_and_an_invalid_one_does_not_end_the_stream() {
    let (node, _folder) = dev();
    let (_channel, requests, mut answers) = open_stream(&node).await;
    for id in ["1", "2", "3", "4"] {
        requests.send(request(id, "user", "u")).await.unwrap();
    }
    requests.send(CheckRequest { request_id: "wrong".to_owned(), ..CheckRequest::default() }).await.unwrap();
    requests.send(request("größe", "path", "/free")).await.unwrap();
    requests.send(request("", "path", "/free")).await.unwrap();
    let mut received = Vec::new();
    for _ in 0..7 {
        let answer = next(&mut answers).await.unwrap();
        received.push((answer.request_id, answer.allowed, answer.error.map(|error| error.code)));
    }
    let generated = received.iter().position(|(id, ..)| id.len() == 32).expect("one id was generated");
    assert!(received.remove(generated).1);
    received.sort();
    let expected =
        [("1", true), ("2", true), ("3", true), ("4", false)].map(|(id, allowed)| (id.to_owned(), allowed, None));
    assert_eq!(received[..4], expected);
    for (answer, id) in received[4..].iter().zip(["größe", "wrong"]) {
        assert_eq!(*answer, (id.to_owned(), false, Some(Code::InvalidArgument as i32)), "with the id of the request");
    }
    drop(requests);
    assert_eq!(next(&mut answers).await, None, "the stream ends when the client closes its side");
}

#[tokio::test]
async fn a_slow_check_does_not_block_others_on_the_stream() {
    let (redis, (_folder, rules)) = (SingleServer::start(&[]), rules());
    let node = Node::serve(&rules, &redis.url(), &[("TIDEGATE_STORE__DEADLINE", "10s"), ("TIDEGATE_WORKERS", "1")]);
    wait_for("the node to reach the store", || (node.get("/ready").json()["store"] == "ok").then_some(()));
    wait_for("a decision of the store", || {
        let answer = node.check(r#"{"domain":"d","attributes":{"user":"other"},"hits":0}"#).json();
        (answer["degraded"] == false).then_some(())
    });
    let (_channel, requests, mut answers) = open_stream(&node).await;
    assert_eq!(redis_cli(redis.server.port, &["client", "pause", "1000000", "write"]), "OK");
    requests.send(request("slow", "user", "u")).await.unwrap();
    for _ in 0..3 {
        requests.send(request("fast", "path", "/none")).await.unwrap();
        assert_eq!(next(&mut answers).await.unwrap().request_id, "fast");
    }
    assert_eq!(redis_cli(redis.server.port, &["client", "unpause"]), "OK");
    let slow = next(&mut answers).await.unwrap();
    assert_eq!((slow.request_id.as_str(), slow.allowed), ("slow", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_does_not_read_stops_the_decisions_on_its_stream() {
    const REQUESTS: u32 = 100_000;
    let (node, _folder) = dev();
    let (_channel, requests, mut answers) = open_stream(&node).await;
    #[expect(clippy::disallowed_methods, reason = "the task ends with the test")]
    let sender = tokio::spawn(async move {
        for _ in 0..REQUESTS {
            requests.send(request("", "path", "/free")).await.unwrap();
        }
    });
    let allowed = || node.metric("rate_limiter_requests_total{status=\"allowed\"} ");
    // The number of decisions stops growing before all requests are decided.
    let mut last = -1.0;
    let decided = wait_for("the node to stop deciding", || {
        std::thread::yield_now();
        let now = allowed();
        let stopped = now > 0.0 && now == last;
        last = now;
        stopped.then_some(now)
    });
    let bounded = decided < f64::from(REQUESTS) && !sender.is_finished();
    assert!(bounded, "{decided} of {REQUESTS} requests were decided for a client that does not read");
    for _ in 0..REQUESTS {
        assert!(next(&mut answers).await.unwrap().allowed);
    }
    assert_eq!(next(&mut answers).await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn checks_of_streams_that_wait_for_the_store_have_a_memory_bound() {
    const MAX_GROWTH_BYTES: f64 = 200e6;
    let (redis, folder) = (SingleServer::start(&[]), tempfile::tempdir().unwrap());
    let limit = |at| format!("{{ name: l{at}, per: [user], limit: 1000000, window: 1d, consistency: exact }}");
    let limits = (0..190).map(limit).collect::<Vec<_>>().join(", ");
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, format!("version: 1\ndomains: [{{ domain: d, limits: [{limits}] }}]\n")).unwrap();
    let node = Node::serve(&rules, &redis.url(), &[("TIDEGATE_STORE__DEADLINE", "10s")]);
    wait_for("the node to reach the store", || (node.get("/ready").json()["store"] == "ok").then_some(()));
    let memory = || node.metric("process_resident_memory_bytes ");
    let before = memory();
    assert_eq!(redis_cli(redis.server.port, &["client", "pause", "1000000", "write"]), "OK");

    let one = |at| Descriptor { attributes: [("user".to_owned(), format!("u{at}"))].into() };
    let check =
        CheckRequest { domain: "d".to_owned(), descriptors: (0..10).map(one).collect(), ..CheckRequest::default() };
    let channel = Endpoint::from_shared(format!("http://{}", node.grpc)).unwrap().connect().await.unwrap();
    let mut ends = FuturesUnordered::new();
    for _ in 0..12 {
        let mut client = RateLimitServiceClient::new(channel.clone());
        let mut answers = client.check_stream(tokio_stream::iter(vec![check.clone(); 200])).await.unwrap().into_inner();
        ends.push(async move {
            loop {
                match answers.message().await {
                    Ok(None) => break None,
                    Ok(Some(_)) => {}
                    Err(status) => break Some(status.code()),
                }
            }
        });
    }
    let end = tokio::time::timeout(Duration::from_secs(60), ends.next()).await.expect("a stream ends").unwrap();
    let growth = memory() - before;
    println!("memory grew by {growth} bytes");
    assert!(growth < MAX_GROWTH_BYTES, "memory grew by {growth} bytes");
    assert_eq!(end, Some(Code::ResourceExhausted), "before the store answers");
    assert_eq!(redis_cli(redis.server.port, &["client", "unpause"]), "OK");
}

#[tokio::test]
async fn a_connection_has_at_most_64_streams() {
    let (node, _folder) = dev();
    let (channel, requests, answers) = open_stream(&node).await;
    let mut open = vec![(requests, answers)];
    let error = loop {
        let (requests, received) = mpsc::channel(1);
        let mut client = RateLimitServiceClient::new(channel.clone());
        match client.check_stream(ReceiverStream::new(received)).await {
            Ok(answers) => open.push((requests, answers.into_inner())),
            Err(status) => break status,
        }
    };
    assert_eq!((error.code(), open.len()), (Code::ResourceExhausted, 64), "{error:?}");
    // After one stream has ended, another can open.
    let (requests, mut answers) = open.pop().unwrap();
    drop(requests);
    assert_eq!(next(&mut answers).await, None);
    drop(answers);
    let (_questions, received) = mpsc::channel(1);
    RateLimitServiceClient::new(channel).check_stream(ReceiverStream::new(received)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_exits_answers_the_requests_it_has_read_and_ends_its_streams() {
    let (redis, (_folder, rules)) = (SingleServer::start(&[]), rules());
    let mut node = Node::serve(&rules, &redis.url(), &[("TIDEGATE_STORE__DEADLINE", "10s")]);
    wait_for("the node to reach the store", || (node.get("/ready").json()["store"] == "ok").then_some(()));
    wait_for("a decision of the store", || {
        let answer = node.check(r#"{"domain":"d","attributes":{"user":"other"},"hits":0}"#).json();
        (answer["degraded"] == false).then_some(())
    });
    let (_channel, requests, mut answers) = open_stream(&node).await;
    assert_eq!(redis_cli(redis.server.port, &["client", "pause", "1000000", "write"]), "OK");
    requests.send(request("1", "user", "u")).await.unwrap();
    wait_for("the node to read the request", || (node.metric("tidegate_waiting_checks ") > 0.0).then_some(()));
    node.signal("TERM");
    wait_for("the node to stop listening", || std::net::TcpStream::connect(&node.grpc).is_err().then_some(()));
    assert_eq!(redis_cli(redis.server.port, &["client", "unpause"]), "OK");
    let answer = next(&mut answers).await.unwrap();
    assert!(answer.allowed && !answer.degraded, "{answer:?}");
    assert_eq!(next(&mut answers).await, None, "the stream ends without an error, and the client asks another node");
    wait_for("the node to exit", || node.child.try_wait().unwrap());
    assert!(node.child.wait().unwrap().success());
}
