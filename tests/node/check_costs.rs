//! Checks over many descriptors to which many limits apply: a node bounds their work and their answers, over every
//! front end. A gateway gets no error for it.

use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use proto::envoy::service::ratelimit::v3::RateLimitRequest;
use proto::envoy::service::ratelimit::v3::rate_limit_response::Code as Verdict;
use proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient as EnvoyClient;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use proto::tidegate::v1::{CheckBatchRequest, CheckRequest, Descriptor};
use serde_json::{Value, json};
use tokio_stream::StreamExt;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use tonic_types::StatusExt;

use crate::node::Node;

/// The limits that apply to every descriptor.
const LIMITS: usize = 190;
/// The descriptors of a check that is nearly the most work.
const DESCRIPTORS: usize = 10;
/// The largest answer, in bytes.
const MAX_ANSWER: usize = 4 * 1024 * 1024;

fn start_node() -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    let limit = |at| format!("      - {{ name: l{at}, per: [user], limit: 1000000, window: 1d }}\n");
    let limits: String = (0..LIMITS).map(limit).collect();
    std::fs::write(&rules, format!("version: 1\ndomains:\n  - domain: d\n    limits:\n{limits}")).unwrap();
    (Node::dev(&["--rules", rules.to_str().unwrap()]), folder)
}

/// A check over this many descriptors, for JSON.
fn check(descriptors: usize) -> Value {
    let descriptors: Vec<Value> = (0..descriptors).map(|at| json!({ "user": format!("u{at}") })).collect();
    json!({ "domain": "d", "descriptors": descriptors })
}

/// The same for gRPC.
fn message(descriptors: usize) -> CheckRequest {
    let one = |at| Descriptor { attributes: [("user".to_owned(), format!("u{at}"))].into() };
    CheckRequest { domain: "d".to_owned(), descriptors: (0..descriptors).map(one).collect(), ..CheckRequest::default() }
}

async fn channel(node: &Node) -> Channel {
    Endpoint::from_shared(format!("http://{}", node.grpc)).unwrap().connect().await.unwrap()
}

async fn client(node: &Node) -> RateLimitServiceClient<Channel> {
    RateLimitServiceClient::new(channel(node).await).max_decoding_message_size(MAX_ANSWER)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_application_gets_an_error_that_names_the_descriptors() {
    let (node, _folder) = start_node();
    let answer = node.check(&check(100).to_string());
    let error = answer.json()["errors"][0].clone();
    assert_eq!((answer.status, error["pointer"].as_str()), (400, Some("/descriptors")), "{answer:?}");
    assert!(error["detail"].as_str().unwrap().contains("more than 200000 steps"), "{error}");
    let status = client(&node).await.check(message(100)).await.unwrap_err();
    let fields: Vec<String> =
        status.get_details_bad_request().unwrap().field_violations.into_iter().map(|v| v.field).collect();
    assert_eq!((status.code(), fields), (Code::InvalidArgument, vec!["descriptors".to_owned()]));

    let answer = node.check(&check(DESCRIPTORS).to_string());
    let limits = answer.json()["limits"].as_array().unwrap().clone();
    assert_eq!((answer.status, limits.len()), (200, DESCRIPTORS * LIMITS));
    assert!(limits.iter().all(|limit| limit["remaining"] == 999_999), "an invalid check charges nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_gets_a_denial_and_never_an_error() {
    let (node, _folder) = start_node();
    let mut envoy = EnvoyClient::new(channel(&node).await);
    let entry = |at| Entry { key: "user".into(), value: format!("u{at}").into() };
    let descriptor = |at| RateLimitDescriptor { entries: vec![entry(at)], ..RateLimitDescriptor::default() };
    let request = |count| RateLimitRequest {
        domain: "d".to_owned(),
        descriptors: (0..count).map(descriptor).collect(),
        hits_addend: 0,
    };
    let denied = envoy.should_rate_limit(request(100)).await.unwrap().into_inner();
    assert_eq!((denied.overall_code(), denied.statuses.len()), (Verdict::OverLimit, 100));
    assert!(denied.statuses.iter().all(|status| status.code() == Verdict::OverLimit));
    let headers: Vec<(&str, &str)> =
        denied.response_headers_to_add.iter().map(|header| (&*header.key, &*header.value)).collect();
    assert_eq!(headers, [("x-tidegate-reason", "too_much_work")]);
    assert!(node.metric(r#"tidegate_checks_total{domain="d",outcome="refused"} "#) > 0.0);
    assert!(node.metric(r#"tidegate_unmatched_total{domain="d"} "#) < 1.0, "limits match the check");

    let allowed = envoy.should_rate_limit(request(DESCRIPTORS)).await.unwrap().into_inner();
    assert_eq!((allowed.overall_code(), allowed.statuses.len()), (Verdict::Ok, DESCRIPTORS));
    assert!(allowed.statuses.iter().all(|status| status.limit_remaining == 999_999));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_work_and_the_answer_of_a_batch_are_bounded() {
    let (node, _folder) = start_node();
    let body = json!({ "checks": vec![check(DESCRIPTORS); 400] }).to_string();
    let answer = node.send("POST /v1/checks HTTP/1.1", &body);
    let results = answer.json()["results"].as_array().unwrap().clone();
    let decided = results.iter().take_while(|result| result["allowed"] == true).count();
    assert!((2..20).contains(&decided) && results.len() == 400, "{decided} of {}", results.len());
    for result in &results[decided..] {
        assert_eq!(result["error"]["status"], 400);
        let detail = result["error"]["errors"][0]["detail"].as_str().unwrap();
        assert!(detail.contains("fewer checks in a batch"), "{detail}");
    }
    assert!(answer.body.len() < MAX_ANSWER, "{} bytes", answer.body.len());

    let mut client = client(&node).await;
    let batch = CheckBatchRequest { checks: vec![message(DESCRIPTORS); 400] };
    let results = client.check_batch(batch).await.unwrap().into_inner().results;
    let same = results.iter().take_while(|result| result.allowed).count();
    assert_eq!((same, results.len()), (decided, 400));
    assert!(results[decided..].iter().all(|result| result.error.as_ref().unwrap().message.contains("in a batch")));
    let peek = client.check(CheckRequest { hits: Some(0), ..message(1) }).await.unwrap().into_inner();
    assert_eq!(peek.limits[0].remaining, Some(1_000_000 - 2 * decided as u64), "the rest is charged nowhere");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_check_of_a_stream_is_a_request_of_its_own() {
    let (node, _folder) = start_node();
    let named = |at| CheckRequest { request_id: format!("c{at}"), ..message(DESCRIPTORS) };
    let checks: Vec<CheckRequest> = (0..60).map(named).collect();
    let mut answers = client(&node).await.check_stream(tokio_stream::iter(checks)).await.unwrap().into_inner();
    let mut ids = std::collections::BTreeSet::new();
    while let Some(answer) = answers.next().await {
        let answer = answer.unwrap();
        assert!(answer.allowed && answer.error.is_none(), "{:?}", answer.error);
        ids.insert(answer.request_id);
    }
    assert_eq!(ids.len(), 60);
}
