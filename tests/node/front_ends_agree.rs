//! Envoy's call and the HTTP check give the same answers to the same sequence of requests under the same rules.

use crate::node::{Node, tidegate};
use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use proto::envoy::service::ratelimit::v3::rate_limit_response::Code;
use proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use serde_json::{Map, Value, json};

const REQUESTS: usize = 1000;

/// Rules with windows that are longer than any test, so that the answers depend only on the requests.
const RULES: &str = "
version: 1
domains:
  - domain: all
    limits: &limits
      - { name: per-user, match: { user: { present: true } }, per: [user], limit: 40, window: 400d }
      - { name: exact, match: { path: { prefix: /a } }, per: [path], limit: 60, window: 400d, algorithm: fixed_window, consistency: exact }
      - { name: rolling, match: { tier: [free, trial] }, per: [tier, user], limit: 25, window: 400d, algorithm: rolling_window }
      - { name: bucket, match: { path: { route: '/b/{id}' } }, per: [], limit: 1, burst: 50, window: 70d, algorithm: token_bucket }
      - { name: tree, exact_keys: [path, user], per: [path, user], limit: 9, window: 400d, overrides: [{ match: { user: u1 }, limit: 12 }] }
      - { name: quiet, per: [], limit: 30, window: 400d, mode: shadow }
      - { name: paid, match: { tier: paid }, per: [user], limit: unlimited, window: 1d, replaces: [per-user] }
      - { name: large, when: 'hits > 3u || hits > 3', per: [], limit: 200, window: 400d }
  - { domain: each, charge: each, limits: *limits }
";

/// The random number generator SplitMix64 (Steele, Lea, Flood 2014). It makes the same requests in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end as u64).unwrap()
    }

    fn choose<'a>(&mut self, values: &[&'a str]) -> &'a str {
        values[self.below(values.len())]
    }
}

fn start(rules: &std::path::Path) -> Node {
    let mut command = tidegate(&["serve", "--region", "r", "--store", "memory:", "--log-format", "json"]);
    command.args(["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--rules"]).arg(rules);
    // Each node has one core: tokens that another core holds in a lease must not make the front ends differ.
    Node::start({
        command.env("TIDEGATE_WORKERS", "1");
        command
    })
}

fn descriptor(random: &mut Random) -> Vec<(&'static str, &'static str)> {
    let mut attributes = Vec::new();
    if random.below(4) > 0 {
        attributes.push(("path", random.choose(&["/a", "/a/1", "/b/1", "/b/2", "/c"])));
    }
    if random.below(3) == 0 {
        attributes.push(("tier", random.choose(&["free", "trial", "paid"])));
    }
    if random.below(5) > 0 {
        attributes.push(("user", random.choose(&["u1", "u2", "u3", "{u}/4"])));
    }
    attributes
}

/// An answer: true if the check is allowed; and for each descriptor true if it passes, the name of the limit that is
/// shown, and the remaining hits of that limit.
type ComparedAnswer = (bool, Vec<(bool, Option<String>, Option<u64>)>);

fn answer_of_envoy(answer: &RateLimitResponse) -> ComparedAnswer {
    let statuses = answer.statuses.iter().map(|status| {
        let shown = status.current_limit.as_ref();
        (status.code() == Code::Ok, shown.map(|l| l.name.clone()), shown.map(|_| status.limit_remaining.into()))
    });
    (answer.overall_code() == Code::Ok, statuses.collect())
}

/// Returns the answer that Envoy's call must give, computed from the JSON of the HTTP check.
fn answer_of_http(answer: &Value, descriptors: usize) -> ComparedAnswer {
    let limits = answer["limits"].as_array().unwrap();
    let statuses = (0..descriptors).map(|at| {
        let of_descriptor = || limits.iter().filter(move |l| l["descriptor"] == at && l["shadow"] == false);
        let denying = || of_descriptor().filter(|l| l["refused"] == true);
        let limited = of_descriptor().filter(|l| !l["limit"].is_null());
        let remaining_share = |l: &&Value| {
            let capacity = if l["name"] == "bucket" { 50 } else { l["limit"].as_u64().unwrap() };
            (l["remaining"].as_u64().unwrap() as f64 / capacity as f64 * 1e9) as u64
        };
        // If several limits deny, Envoy's call may show any of them.
        let shown = match denying().count() {
            0 => limited.min_by_key(remaining_share),
            1 => denying().next(),
            _ => None,
        };
        let name = shown.map(|l| l["name"].as_str().unwrap().to_owned());
        (denying().count() == 0, name, shown.map(|l| l["remaining"].as_u64().unwrap()))
    });
    (answer["allowed"] == true, statuses.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_call_and_the_http_check_give_the_same_answers() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, RULES).unwrap();
    let (envoy, http) = (start(&rules), start(&rules));
    let mut client = RateLimitServiceClient::connect(format!("http://{}", envoy.grpc)).await.unwrap();
    let mut random = Random(20_261_124);
    let (mut denied, mut compared) = (0, 0);
    for at in 0..REQUESTS {
        let domain = random.choose(&["all", "each", "all", "each", "none"]);
        let hits = [0, 1, 1, 2, 4][random.below(5)];
        let descriptors: Vec<_> = (0..1 + random.below(3)).map(|_| descriptor(&mut random)).collect();
        let entry = |(key, value): &(&str, &str)| Entry { key: (*key).into(), value: (*value).into() };
        let request = RateLimitRequest {
            domain: domain.to_owned(),
            descriptors: descriptors
                .iter()
                .map(|d| RateLimitDescriptor {
                    entries: d.iter().map(entry).collect(),
                    hits_addend: Some(hits),
                    ..RateLimitDescriptor::default()
                })
                .collect(),
            hits_addend: 0,
        };
        let by_envoy = answer_of_envoy(client.should_rate_limit(request).await.unwrap().get_ref());
        let maps: Vec<Map<String, Value>> =
            descriptors.iter().map(|d| d.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect()).collect();
        let body = json!({ "domain": domain, "descriptors": maps, "hits": hits }).to_string();
        let answer = tokio::task::block_in_place(|| http.check(&body));
        let by_http = answer_of_http(&answer.json(), descriptors.len());
        assert_eq!(answer.status, if by_envoy.0 { 200 } else { 429 }, "request {at}: {body}: {answer:?}");
        assert_eq!(by_envoy.0, by_http.0, "request {at}: {body}");
        // A check that is denied as a whole may not have asked every limit. Which of several denying limits is named
        // depends on the denials that a node remembers.
        let denied_as_a_whole = domain == "all" && !by_http.0;
        for compared_answer in [&by_envoy, &by_http].iter().filter(|_| denied_as_a_whole) {
            assert!(compared_answer.1.iter().any(|(passes, ..)| !passes), "request {at}: {body}: {answer:?}");
        }
        for (from_envoy, from_http) in by_envoy.1.iter().zip(&by_http.1) {
            assert!(denied_as_a_whole || from_envoy.0 == from_http.0, "request {at}: {body}: {answer:?}");
            if from_http.1.is_some() && from_envoy.1 == from_http.1 {
                assert_eq!(from_envoy.2, from_http.2, "request {at}: {body}: {answer:?}");
                compared += 1;
            }
        }
        denied += usize::from(!by_http.0);
    }
    assert!((100..900).contains(&denied), "{denied} of {REQUESTS} checks were denied: the rules test too little");
    assert!(compared > 500, "only {compared} limits were compared");
}
