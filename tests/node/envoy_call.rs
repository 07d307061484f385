//! What the clients of a gateway can put into Envoy's call, and what a newer Envoy can: no value is an error, and
//! nothing is lost in silence.

use prost::Message as _;
use prost::bytes::{Buf as _, BufMut as _, Bytes};
use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
use proto::envoy::service::ratelimit::v3::rate_limit_response::rate_limit::Unit;
use proto::envoy::service::ratelimit::v3::rate_limit_response::{Code as Verdict, DescriptorStatus};
use proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient as EnvoyClient;
use proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use proto::tidegate::v1::CheckRequest;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};

use crate::node::{Node, wait_for};

const RULES: &str = "
version: 1
domains:
  - domain: edge
    limits:
      - { name: per-agent, match: { agent: { present: true } }, per: [agent], limit: 3, window: 1d,
          algorithm: fixed_window }
      - { name: fixed, match: { fixed: { present: true } }, per: [fixed], limit: 5, window: 1d, algorithm: fixed_window }
      - { name: exact, match: { exact: { present: true } }, per: [exact], limit: 5, window: 1d, consistency: exact }
      - { name: bucket, match: { bucket: { present: true } }, per: [bucket], limit: 5, window: 1d,
          algorithm: token_bucket }
      - { name: per-address, match: { address: { present: true } }, per: [address], limit: 100, window: 1d }
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

fn descriptor(entries: &[(&str, &[u8])]) -> RateLimitDescriptor {
    let entries = entries.iter().map(|(key, value)| Entry { key: (*key).into(), value: value.to_vec() }).collect();
    RateLimitDescriptor { entries, ..RateLimitDescriptor::default() }
}

fn request(descriptors: Vec<RateLimitDescriptor>) -> RateLimitRequest {
    RateLimitRequest { domain: "edge".to_owned(), descriptors, hits_addend: 0 }
}

async fn ask(client: &mut EnvoyClient<Channel>, descriptors: Vec<RateLimitDescriptor>) -> RateLimitResponse {
    client.should_rate_limit(request(descriptors)).await.unwrap().into_inner()
}

/// Passes messages on as the bytes that they are.
#[derive(Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, bytes: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(bytes);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(bytes.copy_to_bytes(bytes.remaining())))
    }
}

const ENVOYS_CALL: &str = "/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit";

async fn send(channel: &Channel, path: &'static str, message: Vec<u8>) -> Result<Bytes, Status> {
    let mut client = tonic::client::Grpc::new(channel.clone());
    client.ready().await.unwrap();
    let answer = client.unary(Request::new(Bytes::from(message)), path.parse().unwrap(), Raw).await;
    answer.map(tonic::Response::into_inner)
}

#[tokio::test]
async fn no_value_that_a_client_chooses_is_an_error() {
    let (node, _folder) = start_node();
    let mut client = EnvoyClient::new(connect(&node).await);
    let values: [Vec<u8>; 11] = [
        b"".to_vec(),
        vec![b'x'; 4096],
        vec![b'x'; 4097],
        [vec![b'x'; 4096], b"y".to_vec()].concat(),
        vec![b'x'; 900 * 1024],
        vec![0xff; 200 * 1024],
        vec![0xff; 200 * 1024 + 1],
        b"caf\xe9".to_vec(),
        b"caf\xea".to_vec(),
        b"caf\\xe9".to_vec(),
        b"\0\n\xf0\x9f".to_vec(),
    ];
    for value in &values {
        let mut codes = Vec::new();
        for _ in 0..4 {
            let answer = ask(&mut client, vec![descriptor(&[("agent", value)]), descriptor(&[("address", b"::1")])]);
            codes.push(answer.await.overall_code());
        }
        let start = String::from_utf8_lossy(&value[..value.len().min(8)]);
        let expected = [Verdict::Ok, Verdict::Ok, Verdict::Ok, Verdict::OverLimit];
        assert_eq!(codes, expected, "{} bytes that begin with {start:?} have a counter of their own", value.len());
    }
    assert_eq!(node.metric("rate_limiter_requests_total{status=\"error\"}"), 0.0);
}

#[tokio::test]
async fn more_hits_than_can_be_counted_are_over_the_limit() {
    let (node, _folder) = start_node();
    let mut client = EnvoyClient::new(connect(&node).await);
    for hits in [4, 1 << 32, u64::MAX] {
        let asked = RateLimitDescriptor { hits_addend: Some(hits), ..descriptor(&[("agent", b"a")]) };
        let answer = ask(&mut client, vec![asked]).await;
        assert_eq!((answer.overall_code(), answer.statuses[0].limit_remaining), (Verdict::OverLimit, 3), "{hits} hits");
    }
}

#[tokio::test]
async fn negative_hits_go_back_and_are_never_charged_or_denied() {
    let (node, _folder) = start_node();
    let mut client = EnvoyClient::new(connect(&node).await);
    let own = RateLimitOverride { requests_per_unit: 5, unit: Unit::Day.into(), unit_multiplier: None };
    for (key, limit) in [("fixed", None), ("exact", None), ("bucket", None), ("agent", Some(own))] {
        // The hits, whether they are negative, and what is left afterwards; `None` for a denial.
        let steps = [
            (Some(3), false, Some(2)),
            (Some(1), true, Some(3)),
            (None, true, Some(4)),
            (Some(0), true, Some(4)),
            (Some(4), false, Some(0)),
            (Some(0), true, Some(0)),
            (Some(1), false, None),
            (Some(2), true, Some(2)),
            (Some(100), true, Some(5)),
            (Some(u64::MAX), true, Some(5)),
            (Some(5), false, Some(0)),
            (Some(1), false, None),
        ];
        for (at, (hits_addend, is_negative_hits, left)) in steps.into_iter().enumerate() {
            let descriptor = descriptor(&[(key, b"a")]);
            let asked = RateLimitDescriptor { limit, hits_addend, is_negative_hits, ..descriptor };
            let answer = ask(&mut client, vec![asked]).await;
            let shown = answer.statuses[0].limit_remaining;
            let shown = (answer.overall_code() == Verdict::Ok).then_some(shown);
            assert_eq!(shown, left, "{key}, step {at}: {hits_addend:?} hits, negative: {is_negative_hits}");
        }
    }
}

#[tokio::test]
async fn a_limit_in_a_descriptor_counts_by_its_entries_and_its_window() {
    let (node, _folder) = start_node();
    let mut client = EnvoyClient::new(connect(&node).await);
    let limit = |requests_per_unit, unit: Unit, unit_multiplier| RateLimitOverride {
        requests_per_unit,
        unit: unit.into(),
        unit_multiplier,
    };
    let table = [
        (limit(10, Unit::Day, None), Verdict::Ok, 9, (Unit::Day, None)),
        (limit(10, Unit::Day, Some(1)), Verdict::Ok, 8, (Unit::Day, None)),
        (limit(10, Unit::Hour, Some(24)), Verdict::Ok, 7, (Unit::Day, None)),
        (limit(2, Unit::Day, None), Verdict::OverLimit, 0, (Unit::Day, None)),
        (limit(10, Unit::Day, None), Verdict::Ok, 6, (Unit::Day, None)),
        (limit(2, Unit::Hour, Some(30)), Verdict::Ok, 1, (Unit::Hour, Some(30))),
        (limit(2, Unit::Hour, Some(30)), Verdict::Ok, 0, (Unit::Hour, Some(30))),
        (limit(2, Unit::Hour, Some(30)), Verdict::OverLimit, 0, (Unit::Hour, Some(30))),
        (limit(1, Unit::Month, None), Verdict::Ok, 0, (Unit::Month, None)),
        (limit(1, Unit::Month, Some(2)), Verdict::Ok, 0, (Unit::Month, Some(2))),
        (limit(1, Unit::Year, Some(9)), Verdict::Ok, 0, (Unit::Day, Some(400))),
    ];
    for (limit, verdict, left, unit) in table {
        let asked = RateLimitDescriptor { limit: Some(limit), ..descriptor(&[("agent", b"a"), ("path", b"/")]) };
        let answer = ask(&mut client, vec![asked]).await;
        let DescriptorStatus { current_limit, limit_remaining, .. } = &answer.statuses[0];
        assert_eq!((answer.overall_code(), *limit_remaining), (verdict, left), "{limit:?}");
        let current = current_limit.as_ref().unwrap();
        assert_eq!((current.unit(), current.unit_multiplier), unit, "{limit:?}");
        assert_eq!(current.requests_per_unit, limit.requests_per_unit, "{limit:?}");
        assert_eq!(current.name, "descriptor-limit/agent/path");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn messages_that_cannot_be_read_are_invalid_and_seen() {
    let (node, _folder) = start_node();
    let channel = connect(&node).await;
    let native = CheckRequest { domain: "edge".to_owned(), request_id: "id".to_owned(), ..CheckRequest::default() };
    let mut not_utf8 = native.encode_to_vec();
    *not_utf8.last_mut().unwrap() = 0xff;
    let batch = [&[10, u8::try_from(not_utf8.len()).unwrap()], &not_utf8[..]].concat();
    let too_large = request(vec![descriptor(&[("agent", &vec![b'x'; 1024 * 1024])])]).encode_to_vec();
    let table = [
        (ENVOYS_CALL, vec![0xff], Code::InvalidArgument, "decoded"),
        (ENVOYS_CALL, vec![10, 1, 0xff], Code::InvalidArgument, "domain"),
        (ENVOYS_CALL, too_large, Code::OutOfRange, "1048576"),
        ("/tidegate.v1.RateLimitService/Check", not_utf8, Code::InvalidArgument, "request_id"),
        ("/tidegate.v1.RateLimitService/CheckBatch", batch.clone(), Code::InvalidArgument, "request_id"),
        ("/tidegate.v1.RateLimitService/CheckStream", batch, Code::InvalidArgument, "decoded"),
    ];
    let errors = || node.metric("rate_limiter_requests_total{status=\"error\"}");
    for (at, (path, message, code, part)) in table.into_iter().enumerate() {
        let status = send(&channel, path, message).await.unwrap_err();
        assert!(status.code() == code && status.message().contains(part), "{path}: {status:?}");
        let seen = at as f64 + 1.0;
        wait_for("the call to be counted", || (errors() == seen).then_some(()));
        assert_eq!(node.metric("tidegate_unreadable_messages_total"), seen, "{path}");
    }
    let log = wait_for("a log line", || Some(node.log()).filter(|log| log.contains("a gateway may let the request")));
    assert_eq!(log.matches("a gateway may let the request").count(), 1, "the rate of lines is bounded: {log}");
    // A call that is invalid by its meaning is counted once and no unreadable message.
    assert_eq!(send(&channel, ENVOYS_CALL, Vec::new()).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!((errors(), node.metric("tidegate_unreadable_messages_total")), (7.0, 6.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_a_newer_api_are_seen() {
    let (node, _folder) = start_node();
    let channel = connect(&node).await;
    let known = request(vec![descriptor(&[("agent", b"a")])]).encode_to_vec();
    let descriptor_of_tomorrow = [18, 2, 14 << 3, 1];
    let seen = || node.metric("tidegate_unknown_fields_total");
    for (extra, count) in [(&[][..], 0.0), (&descriptor_of_tomorrow[..], 1.0), (&[14 << 3, 1], 2.0)] {
        let answer = send(&channel, ENVOYS_CALL, [&known, extra].concat()).await.unwrap();
        assert_eq!(RateLimitResponse::decode(answer).unwrap().overall_code(), Verdict::Ok);
        assert_eq!(seen(), count);
    }
    let log = wait_for("a log line", || Some(node.log()).filter(|log| log.contains("does not know")));
    assert!(log.contains("descriptors[1].14"), "the line names the field: {log}");
}
