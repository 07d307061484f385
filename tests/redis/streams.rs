//! `CheckStream` on a running node.

use std::time::Duration;

use crate::node::{Node, wait_for};
use crate::servers::{Single, ask};
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use proto::tidegate::v1::{CheckRequest, CheckResponse};
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

/// A connection to `node` with a stream: what goes in, and what comes out.
async fn stream(node: &Node) -> (Channel, mpsc::Sender<CheckRequest>, Streaming<CheckResponse>) {
    let channel = Endpoint::from_shared(format!("http://{}", node.grpc)).unwrap().connect().await.unwrap();
    let (questions, received) = mpsc::channel(1);
    let answers =
        RateLimitServiceClient::new(channel.clone()).check_stream(ReceiverStream::new(received)).await.unwrap();
    (channel, questions, answers.into_inner())
}

fn question(id: &str, attribute: &str, value: &str) -> CheckRequest {
    let attributes = [(attribute.to_owned(), value.to_owned())].into();
    CheckRequest { domain: "d".to_owned(), attributes, request_id: id.to_owned(), ..CheckRequest::default() }
}

async fn next(answers: &mut Streaming<CheckResponse>) -> Option<CheckResponse> {
    tokio::time::timeout(Duration::from_secs(30), answers.message()).await.expect("an answer").unwrap()
}

#[tokio::test]
async fn each_message_is_answered_under_its_id_and_a_wrong_one_ends_nothing() {
    let (node, _folder) = dev();
    let (_channel, questions, mut answers) = stream(&node).await;
    for id in ["1", "2", "3", "4"] {
        questions.send(question(id, "user", "u")).await.unwrap();
    }
    questions.send(CheckRequest { request_id: "wrong".to_owned(), ..CheckRequest::default() }).await.unwrap();
    questions.send(question("größe", "path", "/free")).await.unwrap();
    questions.send(question("", "path", "/free")).await.unwrap();
    let mut said = Vec::new();
    for _ in 0..7 {
        let answer = next(&mut answers).await.unwrap();
        said.push((answer.request_id, answer.allowed, answer.error.map(|error| error.code)));
    }
    let made = said.iter().position(|(id, ..)| id.len() == 32).expect("an id that was made");
    assert!(said.remove(made).1);
    said.sort();
    let expected =
        [("1", true), ("2", true), ("3", true), ("4", false)].map(|(id, allowed)| (id.to_owned(), allowed, None));
    assert_eq!(said[..4], expected);
    for (said, id) in said[4..].iter().zip(["größe", "wrong"]) {
        assert_eq!(*said, (id.to_owned(), false, Some(Code::InvalidArgument as i32)), "under the id that it brought");
    }
    drop(questions);
    assert_eq!(next(&mut answers).await, None, "the client said no more");
}

#[tokio::test]
async fn a_slow_key_holds_up_no_other() {
    let (redis, (_folder, rules)) = (Single::start(&[]), rules());
    let node = Node::serve(&rules, &redis.url(), &[("TIDEGATE_STORE__DEADLINE", "10s"), ("TIDEGATE_WORKERS", "1")]);
    wait_for("a store that is reached", || (node.get("/ready").json()["store"] == "ok").then_some(()));
    wait_for("a decision of the store", || {
        let answer = node.check(r#"{"domain":"d","attributes":{"user":"other"},"hits":0}"#).json();
        (answer["degraded"] == false).then_some(())
    });
    let (_channel, questions, mut answers) = stream(&node).await;
    assert_eq!(ask(redis.server.port, &["client", "pause", "1000000", "write"]), "OK");
    questions.send(question("slow", "user", "u")).await.unwrap();
    for _ in 0..3 {
        questions.send(question("fast", "path", "/none")).await.unwrap();
        assert_eq!(next(&mut answers).await.unwrap().request_id, "fast");
    }
    assert_eq!(ask(redis.server.port, &["client", "unpause"]), "OK");
    let slow = next(&mut answers).await.unwrap();
    assert_eq!((slow.request_id.as_str(), slow.allowed), ("slow", true));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_read_is_not_decided_for_without_bound() {
    const MANY: u32 = 100_000;
    let (node, _folder) = dev();
    let (_channel, questions, mut answers) = stream(&node).await;
    #[expect(clippy::disallowed_methods, reason = "it ends with the test")]
    let sender = tokio::spawn(async move {
        for _ in 0..MANY {
            questions.send(question("", "path", "/free")).await.unwrap();
        }
    });
    let allowed = || node.metric("rate_limiter_requests_total{status=\"allowed\"} ");
    // What was decided stays the same, and is not all.
    let mut last = -1.0;
    let stood = wait_for("the node to stop", || {
        std::thread::yield_now();
        let now = allowed();
        let stands = now > 0.0 && now == last;
        last = now;
        stands.then_some(now)
    });
    assert!(stood < f64::from(MANY) && !sender.is_finished(), "{stood} of {MANY} were decided for nobody");
    for _ in 0..MANY {
        assert!(next(&mut answers).await.unwrap().allowed);
    }
    assert_eq!(next(&mut answers).await, None);
}

#[tokio::test]
async fn a_connection_has_a_bounded_number_of_streams() {
    let (node, _folder) = dev();
    let (channel, questions, answers) = stream(&node).await;
    let mut open = vec![(questions, answers)];
    let refused = loop {
        let (questions, received) = mpsc::channel(1);
        let mut client = RateLimitServiceClient::new(channel.clone());
        match client.check_stream(ReceiverStream::new(received)).await {
            Ok(answers) => open.push((questions, answers.into_inner())),
            Err(status) => break status,
        }
    };
    assert_eq!((refused.code(), open.len()), (Code::ResourceExhausted, 64), "{refused:?}");
    // Where one has ended there is room for another.
    let (questions, mut answers) = open.pop().unwrap();
    drop(questions);
    assert_eq!(next(&mut answers).await, None);
    drop(answers);
    let (_questions, received) = mpsc::channel(1);
    RateLimitServiceClient::new(channel).check_stream(ReceiverStream::new(received)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_leaves_ends_its_streams_and_answers_what_it_read() {
    let (redis, (_folder, rules)) = (Single::start(&[]), rules());
    let mut node = Node::serve(&rules, &redis.url(), &[("TIDEGATE_STORE__DEADLINE", "10s")]);
    wait_for("a store that is reached", || (node.get("/ready").json()["store"] == "ok").then_some(()));
    wait_for("a decision of the store", || {
        let answer = node.check(r#"{"domain":"d","attributes":{"user":"other"},"hits":0}"#).json();
        (answer["degraded"] == false).then_some(())
    });
    let (_channel, questions, mut answers) = stream(&node).await;
    assert_eq!(ask(redis.server.port, &["client", "pause", "1000000", "write"]), "OK");
    questions.send(question("1", "user", "u")).await.unwrap();
    wait_for("the question to be read", || (node.metric("tidegate_waiting_checks ") > 0.0).then_some(()));
    node.signal("TERM");
    wait_for("the node to listen no more", || std::net::TcpStream::connect(&node.grpc).is_err().then_some(()));
    assert_eq!(ask(redis.server.port, &["client", "unpause"]), "OK");
    let answer = next(&mut answers).await.unwrap();
    assert!(answer.allowed && !answer.degraded, "{answer:?}");
    assert_eq!(next(&mut answers).await, None, "no error: the client asks another node");
    wait_for("the end of the node", || node.child.try_wait().unwrap());
    assert!(node.child.wait().unwrap().success());
}
