//! Envoy's call and the HTTP check say the same, request by request, on the same book.

use crate::node::{Node, tidegate};
use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::Entry;
use proto::envoy::service::ratelimit::v3::rate_limit_response::Code;
use proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use proto::envoy::service::ratelimit::v3::{RateLimitRequest, RateLimitResponse};
use serde_json::{Map, Value, json};

const REQUESTS: usize = 1000;

/// Windows that no test outlives, so that only what is asked makes a difference.
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

/// SplitMix64 (Steele, Lea, Flood 2014): the same requests in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % end as u64).unwrap()
    }

    fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
}

fn start(rules: &std::path::Path) -> Node {
    let mut command = tidegate(&["serve", "--region", "r", "--store", "memory:", "--log-format", "json"]);
    command.args(["--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0", "--rules"]).arg(rules);
    // One core each: what a lease holds back from another core is no difference between faces.
    Node::start({
        command.env("TIDEGATE_WORKERS", "1");
        command
    })
}

fn descriptor(random: &mut Random) -> Vec<(&'static str, &'static str)> {
    let mut all = Vec::new();
    if random.below(4) > 0 {
        all.push(("path", random.one(&["/a", "/a/1", "/b/1", "/b/2", "/c"])));
    }
    if random.below(3) == 0 {
        all.push(("tier", random.one(&["free", "trial", "paid"])));
    }
    if random.below(5) > 0 {
        all.push(("user", random.one(&["u1", "u2", "u3", "{u}/4"])));
    }
    all
}

/// Per descriptor: whether it passes, and the name and what is left of the limit that is shown.
type Said = (bool, Vec<(bool, Option<String>, Option<u64>)>);

fn of_envoy(answer: &RateLimitResponse) -> Said {
    let statuses = answer.statuses.iter().map(|status| {
        let shown = status.current_limit.as_ref();
        (status.code() == Code::Ok, shown.map(|l| l.name.clone()), shown.map(|_| status.limit_remaining.into()))
    });
    (answer.overall_code() == Code::Ok, statuses.collect())
}

/// What Envoy's call shows, read from the JSON in the words of the contract.
fn of_http(answer: &Value, descriptors: usize) -> Said {
    let limits = answer["limits"].as_array().unwrap();
    let statuses = (0..descriptors).map(|at| {
        let own = || limits.iter().filter(move |l| l["descriptor"] == at && l["shadow"] == false);
        let refusing = || own().filter(|l| l["refused"] == true);
        let limited = own().filter(|l| !l["limit"].is_null());
        let part = |l: &&Value| {
            let most = if l["name"] == "bucket" { 50 } else { l["limit"].as_u64().unwrap() };
            (l["remaining"].as_u64().unwrap() as f64 / most as f64 * 1e9) as u64
        };
        // Of several that refuse any may be shown.
        let shown = match refusing().count() {
            0 => limited.min_by_key(part),
            1 => refusing().next(),
            _ => None,
        };
        let name = shown.map(|l| l["name"].as_str().unwrap().to_owned());
        (refusing().count() == 0, name, shown.map(|l| l["remaining"].as_u64().unwrap()))
    });
    (answer["allowed"] == true, statuses.collect())
}

#[tokio::test(flavor = "multi_thread")]
async fn envoys_call_and_the_http_check_agree() {
    let folder = tempfile::tempdir().unwrap();
    let rules = folder.path().join("rules.yaml");
    std::fs::write(&rules, RULES).unwrap();
    let (envoy, http) = (start(&rules), start(&rules));
    let mut client = RateLimitServiceClient::connect(format!("http://{}", envoy.grpc)).await.unwrap();
    let mut random = Random(20_261_124);
    let (mut refused, mut compared) = (0, 0);
    for at in 0..REQUESTS {
        let domain = random.one(&["all", "each", "all", "each", "none"]);
        let hits = [0, 1, 1, 2, 4][random.below(5)];
        let descriptors: Vec<_> = (0..1 + random.below(3)).map(|_| descriptor(&mut random)).collect();
        let entry = |(key, value): &(&str, &str)| Entry { key: (*key).to_owned(), value: (*value).to_owned() };
        let asked = RateLimitRequest {
            domain: domain.to_owned(),
            descriptors: descriptors
                .iter()
                .map(|d| RateLimitDescriptor {
                    entries: d.iter().map(entry).collect(),
                    limit: None,
                    hits_addend: Some(hits),
                })
                .collect(),
            hits_addend: 0,
        };
        let by_envoy = of_envoy(client.should_rate_limit(asked).await.unwrap().get_ref());
        let maps: Vec<Map<String, Value>> =
            descriptors.iter().map(|d| d.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect()).collect();
        let body = json!({ "domain": domain, "descriptors": maps, "hits": hits }).to_string();
        let answer = tokio::task::block_in_place(|| http.check(&body));
        let by_http = of_http(&answer.json(), descriptors.len());
        assert_eq!(answer.status, if by_envoy.0 { 200 } else { 429 }, "request {at}: {body}: {answer:?}");
        assert_eq!(by_envoy.0, by_http.0, "request {at}: {body}");
        // Refused as a whole, a check need not have asked every limit: which of several refusals is named depends on
        // what a node remembers.
        let whole = domain == "all" && !by_http.0;
        for said in [&by_envoy, &by_http].iter().filter(|_| whole) {
            assert!(said.1.iter().any(|(passes, ..)| !passes), "request {at}: {body}: {answer:?}");
        }
        for (envoys, https) in by_envoy.1.iter().zip(&by_http.1) {
            assert!(whole || envoys.0 == https.0, "request {at}: {body}: {answer:?}");
            if https.1.is_some() && envoys.1 == https.1 {
                assert_eq!(envoys.2, https.2, "request {at}: {body}: {answer:?}");
                compared += 1;
            }
        }
        refused += usize::from(!by_http.0);
    }
    assert!((100..900).contains(&refused), "{refused} of {REQUESTS} refused: the book says too little");
    assert!(compared > 500, "{compared}");
}
