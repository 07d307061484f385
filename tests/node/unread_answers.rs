//! Clients that ask and do not read: what waits for them has a bound, and others are served meanwhile.

use bytes::Bytes;
use futures_util::future::join_all;
use h2::client::{ResponseFuture, SendRequest};
use prost::Message;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use proto::tidegate::v1::{CheckBatchRequest, CheckRequest, Descriptor};
use tonic::codegen::http::Request;

use crate::node::wait_for;
use crate::victim::{MAX_GROWTH_BYTES, Victim, http2_client};

/// The budget of a listener for answers that wait to be sent, in bytes. Buffers may be up to twice as large as what is
/// in them.
const UNSENT_BYTES: f64 = 2.0 * 64e6;
const CONNECTIONS: usize = 24;
const CALLS: usize = 8;
/// The limits that each check matches, and that its answer has.
const LIMITS: usize = 10;
/// The streams of one connection, and the limits of each descriptor of their checks. Without a bound, the node holds
/// answers to about 500 descriptors for each stream.
const STREAMS: usize = 24;
const LIMITS_OF_STREAMS: usize = 190;
/// The checks of a batch, whose answer is several times as long as they are.
const CHECKS: usize = 500;

/// Sends a request with a body.
async fn post(client: &mut SendRequest<Bytes>, uri: String, content_type: &str, body: Bytes) -> ResponseFuture {
    *client = client.clone().ready().await.unwrap();
    let request = Request::post(uri).header("content-type", content_type).body(()).unwrap();
    let (answer, mut sender) = client.send_request(request, false).unwrap();
    sender.send_data(body, true).unwrap();
    answer
}

/// Encodes a message with its header.
fn grpc_message(message: &impl Message) -> Vec<u8> {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0][..], &length, &message].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_metrics_keep_nobody_from_reading_them() {
    let victim = Victim::new(&[]);
    let (mut client, _connection) = http2_client(&victim.node.http, 0).await;
    let mut unread = Vec::new();
    for _ in 0..CALLS {
        client = client.ready().await.unwrap();
        let request = Request::get(format!("http://{}/metrics", victim.node.http)).body(()).unwrap();
        unread.push(client.send_request(request, true).unwrap().0.await.unwrap());
    }
    assert_eq!(tokio::task::block_in_place(|| victim.node.get("/metrics").status), 200);
    tokio::task::block_in_place(|| victim.assert_healthy());
}

/// Sends the same request many times on several connections which accept `window` bytes of each answer. Asserts that
/// some answers are cut off, that memory stays bounded, and that `others` are served meanwhile.
async fn ask_without_reading(face: &str, window: u32, path: &str, body: Bytes, others: impl AsyncFn(&Victim)) {
    let victim = Victim::with_limits(LIMITS, &[]);
    let (address, content_type) = match face {
        "grpc" => (victim.node.grpc.clone(), "application/grpc"),
        _ => (victim.node.http.clone(), "application/json"),
    };
    let attackers = (0..CONNECTIONS).map(async |_| {
        let (mut client, connection) = http2_client(&address, window).await;
        let mut unread = Vec::new();
        for _ in 0..CALLS {
            let answer = post(&mut client, format!("http://{address}{path}"), content_type, body.clone()).await;
            // An answer that is cut off may have no head.
            unread.extend(answer.await);
        }
        (client, connection, unread)
    });
    let attackers = join_all(attackers).await;
    let cut = || victim.node.metric(&format!(r#"tidegate_cut_answers_total{{face="{face}"}} "#));
    let growth = tokio::task::block_in_place(|| victim.growth());
    println!("{face}: memory grew by {growth} bytes, {} answers were cut off", tokio::task::block_in_place(cut));
    assert!(growth < UNSENT_BYTES + MAX_GROWTH_BYTES, "memory grew by {growth} bytes");
    tokio::task::block_in_place(|| wait_for("answers to be cut off", || (cut() >= 1.0).then_some(())));
    others(&victim).await;
    drop(attackers);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_over_http_have_a_common_memory_bound() {
    let checks = vec![r#"{"domain":"d","attributes":{"user":"u"}}"#; CHECKS].join(",");
    let body = Bytes::from(format!(r#"{{"checks":[{checks}]}}"#));
    ask_without_reading("http", 0, "/v1/checks", body.clone(), async |victim| {
        let text = std::str::from_utf8(&body).unwrap();
        let head = "POST /v1/checks HTTP/1.1\r\ncontent-type: application/json";
        let answer = tokio::task::block_in_place(|| victim.node.send(head, text));
        assert_eq!(answer.status, 200);
        assert_eq!(answer.json()["results"].as_array().unwrap().len(), CHECKS, "others get whole answers");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_over_grpc_have_a_common_memory_bound() {
    let attributes = [("user".to_owned(), "u".to_owned())].into();
    let check = CheckRequest { domain: "d".to_owned(), attributes, ..CheckRequest::default() };
    let batch = CheckBatchRequest { checks: vec![check; CHECKS] };
    let body = Bytes::from(grpc_message(&batch));
    // A part of which one byte was sent is with the HTTP/2 library.
    ask_without_reading("grpc", 1, "/tidegate.v1.RateLimitService/CheckBatch", body.clone(), async |victim| {
        let url = format!("http://{}", victim.node.grpc);
        let mut other = RateLimitServiceClient::connect(url).await.unwrap();
        let answer = other.check_batch(batch.clone()).await.unwrap().into_inner();
        assert_eq!(answer.results.len(), CHECKS, "others get whole answers");
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unread_answers_of_streams_have_a_memory_bound() {
    let victim = Victim::with_limits(LIMITS_OF_STREAMS, &[]);
    let one = |at| Descriptor { attributes: [("user".to_owned(), format!("u{at}"))].into() };
    let check =
        CheckRequest { domain: "d".to_owned(), descriptors: (0..10).map(one).collect(), ..CheckRequest::default() };
    let body = Bytes::from(grpc_message(&check).repeat(200));
    let (mut client, connection) = http2_client(&victim.node.grpc, 1).await;
    let uri = format!("http://{}/tidegate.v1.RateLimitService/CheckStream", victim.node.grpc);
    let mut unread = Vec::new();
    for _ in 0..STREAMS {
        unread.extend(post(&mut client, uri.clone(), "application/grpc", body.clone()).await.await);
    }
    let growth = tokio::task::block_in_place(|| victim.growth_at_rest());
    println!("streams: memory grew by {growth} bytes");
    assert!(growth < UNSENT_BYTES + MAX_GROWTH_BYTES, "memory grew by {growth} bytes");
    let cut = || victim.node.metric(r#"tidegate_cut_answers_total{face="grpc"} "#);
    tokio::task::block_in_place(|| wait_for("a stream to be ended", || (cut() >= 1.0).then_some(())));

    let mut other = RateLimitServiceClient::connect(format!("http://{}", victim.node.grpc)).await.unwrap();
    let mut answers = other.check_stream(tokio_stream::iter(vec![check; 10])).await.unwrap().into_inner();
    for _ in 0..10 {
        let answer = answers.message().await.unwrap().unwrap();
        assert_eq!(answer.limits.len(), 10 * LIMITS_OF_STREAMS, "others get whole answers");
    }
    assert_eq!(answers.message().await.unwrap(), None);
    drop((unread, client, connection));
}
