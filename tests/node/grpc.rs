//! The gRPC services of a running node: Tidegate's own calls, Envoy's call, health and reflection.

use std::time::Duration;

use crate::node::Node;
use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
use proto::envoy::service::ratelimit::v3::RateLimitRequest;
use proto::envoy::service::ratelimit::v3::rate_limit_response::{Code as Verdict, rate_limit::Unit};
use proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient as EnvoyClient;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use proto::tidegate::v1::{CheckBatchRequest, CheckRequest, Descriptor, ReserveRequest};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};
use tonic_types::StatusExt;

const RULES: &str = "
version: 1
domains:
  - domain: edge
    limits:
      - { name: per-ip, match: { remote_address: { present: true } }, per: [remote_address], limit: 3, window: 1m,
          algorithm: fixed_window, response_headers: { x-plan: free } }
      - { name: watched, match: { path: /shadow }, per: [], limit: 0, window: 1s, mode: shadow }
      - { name: free, match: { path: /free }, per: [], limit: unlimited, window: 1s }
      - { name: tree, exact_keys: [b, a], per: [], limit: 1, window: 1d }
";

fn start_node() -> (Node, tempfile::TempDir) {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, RULES).unwrap();
    (Node::dev(&["--rules", rules.to_str().unwrap()]), folder)
}

async fn connect(node: &Node) -> Channel {
    Endpoint::from_shared(format!("http://{}", node.grpc)).unwrap().connect().await.unwrap()
}

fn descriptor(entries: &[(&str, &str)]) -> RateLimitDescriptor {
    let entries = entries.iter().map(|(k, v)| Entry { key: (*k).into(), value: (*v).into() }).collect();
    RateLimitDescriptor { entries, ..RateLimitDescriptor::default() }
}

fn request(descriptors: Vec<RateLimitDescriptor>) -> RateLimitRequest {
    RateLimitRequest { domain: "edge".to_owned(), descriptors, hits_addend: 0 }
}

fn check(user: &str, hits: Option<u32>) -> CheckRequest {
    let attributes = [("remote_address".to_owned(), user.to_owned())].into();
    CheckRequest { domain: "edge".to_owned(), attributes, hits, ..CheckRequest::default() }
}

#[tokio::test]
async fn native_calls_admit_as_many_checks_as_the_limit_allows() {
    let (node, _folder) = start_node();
    let mut client = RateLimitServiceClient::new(connect(&node).await);
    let mut allowed = Vec::new();
    for _ in 0..4 {
        allowed.push(client.check(check("a", None)).await.unwrap().into_inner().allowed);
    }
    assert_eq!(allowed, [true, true, true, false]);
    let denied = client.check(check("a", None)).await.unwrap().into_inner();
    assert!(denied.retry_after_ms.is_some() && denied.limits[0].refused && denied.request_id.len() == 32);
    let peek = client.check(check("b", Some(0))).await.unwrap().into_inner();
    assert_eq!((peek.allowed, peek.limits[0].remaining), (true, Some(3)));

    let batch = CheckBatchRequest {
        checks: vec![check("c", Some(2)), check("", None), check("c", Some(2)), CheckRequest::default()],
    };
    let results = client.check_batch(batch).await.unwrap().into_inner().results;
    let outcomes: Vec<_> = results.iter().map(|r| (r.allowed, r.error.as_ref().map(|e| e.code))).collect();
    assert_eq!(outcomes, [(true, None), (true, None), (false, None), (false, Some(Code::InvalidArgument as i32))]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_overdraft_is_charged_even_if_it_does_not_fit() {
    let (node, _folder) = start_node();
    let mut client = RateLimitServiceClient::new(connect(&node).await);
    let overdraft = |user: &str| CheckRequest { overdraft: true, ..check(user, Some(5)) };
    let denied = client.check(overdraft("native")).await.unwrap().into_inner();
    assert!(!denied.allowed && denied.limits[0].refused, "five hits do not fit a limit of 3: {denied:?}");
    let batch = client.check_batch(CheckBatchRequest { checks: vec![overdraft("batch")] }).await.unwrap().into_inner();
    assert!(!batch.results[0].allowed);
    let json = |user: &str, overdraft: &str| {
        let attributes = format!(r#"{{"remote_address":"{user}"}}"#);
        node.check(&format!(r#"{{"domain":"edge","attributes":{attributes},"hits":5,"overdraft":{overdraft}}}"#))
    };
    assert_eq!([json("json", "true").status, json("none", "false").status], [429, 429]);
    for (user, left) in [("native", 0), ("batch", 0), ("json", 0), ("none", 3)] {
        let peek = client.check(check(user, Some(0))).await.unwrap().into_inner();
        assert_eq!((peek.allowed, peek.limits[0].remaining), (left > 0, Some(left)), "{user}");
    }
    let invalid = json("x", "1");
    assert_eq!((invalid.status, invalid.json()["errors"][0]["pointer"].as_str()), (400, Some("/overdraft")));
}

#[tokio::test]
async fn errors_of_invalid_calls_name_the_expected_values() {
    let (node, _folder) = start_node();
    let mut client = RateLimitServiceClient::new(connect(&node).await);
    let invalid = CheckRequest { descriptors: vec![Descriptor::default()], domain: String::new(), ..check("x", None) };
    let status = client.check(invalid).await.unwrap_err();
    let fields: Vec<String> =
        status.get_details_bad_request().unwrap().field_violations.into_iter().map(|v| v.field).collect();
    assert_eq!((status.code(), fields), (Code::InvalidArgument, vec!["domain".to_owned(), "descriptors".to_owned()]));
    let long = client.check(check(&"x".repeat(4097), None)).await.unwrap_err();
    assert!(long.message().contains("remote_address") && long.message().contains("4096"), "{long:?}");
    let many = CheckBatchRequest { checks: vec![CheckRequest::default(); 1001] };
    assert_eq!(client.check_batch(many).await.unwrap_err().code(), Code::InvalidArgument);
    let wide = CheckRequest { domain: "d".to_owned(), descriptors: vec![Descriptor::default(); 100], ..<_>::default() };
    let wide = CheckBatchRequest { checks: vec![wide; 41] };
    let status = client.check_batch(wide).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("4000 descriptors"), "{status:?}");
    assert_eq!(client.reserve(ReserveRequest::default()).await.unwrap_err().code(), Code::Unimplemented);
}

#[tokio::test]
async fn a_caller_can_set_the_request_id_and_a_timeout() {
    let (node, _folder) = start_node();
    let mut client = RateLimitServiceClient::new(connect(&node).await);
    let mut request = Request::new(check("t", None));
    request.set_timeout(Duration::from_secs(5));
    request.metadata_mut().insert("x-request-id", "from-metadata".parse().unwrap());
    let answer = client.check(request).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "from-metadata");
    assert_eq!(answer.into_inner().request_id, "from-metadata");
    let own = CheckRequest { request_id: "own".to_owned(), ..check("t", None) };
    let mut batch = Request::new(CheckBatchRequest { checks: vec![own, check("t", None)] });
    batch.metadata_mut().insert("x-request-id", "of-the-batch".parse().unwrap());
    let answer = client.check_batch(batch).await.unwrap();
    assert_eq!(answer.metadata().get("x-request-id").unwrap(), "of-the-batch");
    let ids: Vec<String> = answer.into_inner().results.into_iter().map(|r| r.request_id).collect();
    assert_eq!(ids, ["own", "of-the-batch"]);
}

#[tokio::test]
async fn envoys_call_returns_a_status_for_each_descriptor() {
    let (node, _folder) = start_node();
    let mut client = EnvoyClient::new(connect(&node).await);
    let descriptors = request(vec![
        descriptor(&[("remote_address", "1.1.1.1")]),
        descriptor(&[("path", "/free")]),
        descriptor(&[("path", "/nowhere")]),
        descriptor(&[("path", "/shadow")]),
        descriptor(&[("b", "1"), ("a", "2")]),
        descriptor(&[("a", "1"), ("b", "2")]),
    ]);
    let first = client.should_rate_limit(descriptors.clone()).await.unwrap().into_inner();
    assert_eq!(first.overall_code(), Verdict::Ok);
    let codes: Vec<_> = first.statuses.iter().map(|s| s.code()).collect();
    assert_eq!(codes, [Verdict::Ok; 6], "a shadow limit of 0 must not deny");
    let limit = first.statuses[0].current_limit.as_ref().unwrap();
    assert_eq!((limit.name.as_str(), limit.requests_per_unit, limit.unit()), ("per-ip", 3, Unit::Minute));
    assert_eq!(first.statuses[0].limit_remaining, 2);
    assert!(first.statuses[0].duration_until_reset.is_some());
    assert_eq!((first.statuses[1].limit_remaining, &first.statuses[1].current_limit), (u32::MAX, &None));
    assert_eq!((first.statuses[2].limit_remaining, &first.statuses[2].current_limit), (0, &None));
    assert_eq!(
        first.statuses[4].current_limit.as_ref().unwrap().unit(),
        Unit::Day,
        "the keys are in the order of exact_keys"
    );
    assert_eq!(first.statuses[5].current_limit, None, "the keys are not in the order of exact_keys");

    let second = client.should_rate_limit(descriptors).await.unwrap().into_inner();
    let codes: Vec<_> = second.statuses.iter().map(|s| s.code()).collect();
    assert_eq!((second.overall_code(), codes[0], codes[4]), (Verdict::OverLimit, Verdict::Ok, Verdict::OverLimit));
    assert_eq!(second.statuses[0].limit_remaining, 2, "a denied check must not charge its other limits");
    assert!(second.response_headers_to_add.iter().any(|h| h.key == "retry-after"));

    let mut over_limit = request(vec![descriptor(&[("remote_address", "2.2.2.2")])]);
    over_limit.hits_addend = 4;
    let denied = client.should_rate_limit(over_limit).await.unwrap().into_inner();
    assert_eq!(denied.overall_code(), Verdict::OverLimit);
    assert!(denied.response_headers_to_add.iter().any(|h| h.key == "x-plan" && h.value == "free"));
}

#[tokio::test]
async fn envoys_descriptors_can_set_their_hits_and_limit() {
    let (node, _folder) = start_node();
    let mut client = EnvoyClient::new(connect(&node).await);
    let with = |hits: Option<u64>, limit: Option<(u32, Unit)>| RateLimitDescriptor {
        hits_addend: hits,
        limit: limit.map(|(requests_per_unit, unit)| RateLimitOverride {
            requests_per_unit,
            unit: unit.into(),
            unit_multiplier: None,
        }),
        ..descriptor(&[("remote_address", "3.3.3.3")])
    };
    for _ in 0..5 {
        let peek = client.should_rate_limit(request(vec![with(Some(0), None)])).await.unwrap().into_inner();
        assert_eq!((peek.overall_code(), peek.statuses[0].limit_remaining), (Verdict::Ok, 3));
    }
    let two = client.should_rate_limit(request(vec![with(Some(2), None)])).await.unwrap().into_inner();
    assert_eq!(two.statuses[0].limit_remaining, 1);
    let overridden =
        client.should_rate_limit(request(vec![with(Some(5), Some((7, Unit::Hour)))])).await.unwrap().into_inner();
    let limit = overridden.statuses[0].current_limit.as_ref().unwrap();
    assert_eq!((limit.requests_per_unit, limit.unit(), overridden.statuses[0].limit_remaining), (7, Unit::Hour, 2));
    for invalid in [request(vec![with(None, Some((1, Unit::Unknown)))]), request(vec![])] {
        assert_eq!(client.should_rate_limit(invalid).await.unwrap_err().code(), Code::InvalidArgument);
    }
    let without_domain = RateLimitRequest { domain: String::new(), ..request(vec![with(None, None)]) };
    let status = client.should_rate_limit(without_domain).await.unwrap_err();
    assert!(status.code() == Code::InvalidArgument && status.message().contains("domain"), "{status:?}");
}

#[tokio::test]
async fn health_and_reflection_respond() {
    let (node, _folder) = start_node();
    let channel = connect(&node).await;
    let mut health = HealthClient::new(channel.clone());
    // HTTP may say that the node is ready a moment before gRPC does. The status of the whole node is set last.
    let mut whole = health.watch(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    while whole.message().await.unwrap().unwrap().status() != ServingStatus::Serving {}
    drop(whole);
    for service in ["", "ratelimit", "tidegate.v1.RateLimitService", "envoy.service.ratelimit.v3.RateLimitService"] {
        let answer = health.check(HealthCheckRequest { service: service.to_owned() }).await.unwrap().into_inner();
        assert_eq!(answer.status(), ServingStatus::Serving, "{service}");
    }
    use tonic_reflection::pb::v1::ServerReflectionRequest;
    use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
    use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
    let list = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(tokio_stream::once(list))
        .await
        .unwrap()
        .into_inner();
    let services = format!("{:?}", answers.message().await.unwrap().unwrap());
    for service in
        ["tidegate.v1.RateLimitService", "envoy.service.ratelimit.v3.RateLimitService", "grpc.health.v1.Health"]
    {
        assert!(services.contains(service), "{service} is missing in {services}");
    }
}
