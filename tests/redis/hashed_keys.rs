//! `store.hash_keys`: the values of checks never stand in the keys of Redis, and counters stay apart.

use std::collections::BTreeSet;

use counter_script::wire;
use proto::envoy::extensions::common::ratelimit::v3::RateLimitDescriptor;
use proto::envoy::extensions::common::ratelimit::v3::rate_limit_descriptor::{Entry, RateLimitOverride};
use proto::envoy::service::ratelimit::v3::RateLimitRequest;
use proto::envoy::service::ratelimit::v3::rate_limit_service_client::RateLimitServiceClient;
use proto::envoy::r#type::v3::RateLimitUnit;
use serde_json::json;

use crate::batches::Random;
use crate::load::RuleFile;
use crate::node::{Node, output, serve_command, wait_for};
use crate::servers::{SingleServer, redis_cli};

const HASHED: (&str, &str) = ("TIDEGATE_STORE__HASH_KEYS", "true");
const USERS: usize = 60;
const LIMIT: u64 = 5;

/// Limits of every algorithm: for a user, for a user at an address, and one for all.
const LIMITS: [&str; 5] = [
    "name: fixed, per: [user], limit: 5, window: 1d, algorithm: fixed_window, consistency: exact",
    "name: sliding, per: [user], limit: 1000, window: 1d",
    "name: rolling, per: [ip, user], limit: 1000, window: 1d, algorithm: rolling_window",
    "name: bucket, per: [user], limit: 1000, window: 1d, algorithm: token_bucket",
    "name: all, per: [], limit: 1000000, window: 1d, consistency: exact",
];

/// Returns a random value of 8 to 40 characters that a person may have chosen: an address, a name, a path. By chance,
/// no other text has 8 of its characters in a row.
fn value(random: &mut Random) -> String {
    let alphabet: Vec<char> =
        random.pick(&["abcdefghijkl0123456789", "aB3@.-_", "x/#%{}:=+ ", "äß€日本語🙂"]).chars().collect();
    let length = 8 + random.below(33);
    (0..length).map(|_| random.pick(&alphabet)).collect()
}

/// Sends a check of Envoy's call with a limit of its own. Returns the hits that are left.
#[tokio::main(flavor = "current_thread")]
#[allow(clippy::needless_update, reason = "Envoy's messages get new fields now and then")]
async fn check_with_own_limit(node: &Node, user: &str) -> u32 {
    let mut client = RateLimitServiceClient::connect(format!("http://{}", node.grpc)).await.unwrap();
    let limit =
        RateLimitOverride { requests_per_unit: 1000, unit: RateLimitUnit::Day.into(), ..RateLimitOverride::default() };
    let descriptor = RateLimitDescriptor {
        entries: vec![Entry { key: "user".into(), value: user.into() }],
        limit: Some(limit),
        ..RateLimitDescriptor::default()
    };
    let request =
        RateLimitRequest { domain: "d".to_owned(), descriptors: vec![descriptor], ..RateLimitRequest::default() };
    client.should_rate_limit(request).await.unwrap().into_inner().statuses[0].limit_remaining
}

/// Returns the keys of counters: those that are not the region's own.
fn counter_keys(redis: &SingleServer) -> BTreeSet<String> {
    let keys = redis_cli(redis.server.port, &["--scan"]);
    keys.lines().filter(|key| !key.contains("{region}")).map(ToOwned::to_owned).collect()
}

/// True if the key has the form `prefix:region:{tag}LLLLLLLL` or `prefix:region:{tag}LLLLLLLL/#` and a hash.
fn is_hashed(key: &str) -> bool {
    let base64 = |text: &str| text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    let (_, name) = key.split_once('}').unwrap();
    match name.split_once("/#") {
        Some((limit, hash)) => limit.len() == 8 && base64(limit) && hash.len() == 24 && base64(hash),
        None => name.len() == 8 && base64(name),
    }
}

#[test]
fn no_value_of_a_check_stands_in_a_key_and_counters_stay_apart() {
    let redis = SingleServer::start(&[]);
    let rules = RuleFile::new(&LIMITS);
    let node = rules.start_nodes(1, &redis.url(), &[HASHED]).remove(0);
    let mut random = Random(20_261_126);
    let users: Vec<String> = (0..USERS).map(|_| value(&mut random)).collect();
    let check = |user: &str, hits: u64| {
        let attributes = json!({ "user": user, "ip": "203.0.113.77" });
        node.check(&json!({ "domain": "d", "attributes": attributes, "hits": hits }).to_string()).json()
    };
    let remaining = |answer: &serde_json::Value, name: &str| {
        let limits = answer["limits"].as_array().unwrap();
        limits.iter().find(|limit| limit["name"] == name).unwrap()["remaining"].as_u64().unwrap()
    };
    let hits = |index: usize| 1 + index as u64 % LIMIT;
    for (index, user) in users.iter().enumerate() {
        let answer = check(user, hits(index));
        assert_eq!((&answer["allowed"], &answer["degraded"]), (&true.into(), &false.into()), "{user}: {answer}");
    }
    for (index, user) in users.iter().enumerate() {
        assert_eq!(remaining(&check(user, 0), "fixed"), LIMIT - hits(index), "{user} has a counter of its own");
    }
    let total: u64 = (0..USERS).map(hits).sum();
    assert_eq!(remaining(&check(&users[0], 0), "all"), 1_000_000 - total, "all users share one counter");
    for user in &users {
        assert_eq!(check_with_own_limit(&node, user), 999, "{user} has a counter of its own");
    }
    let keys = counter_keys(&redis);
    // Four limits and the limit of Envoy's call have a counter for each user.
    assert_eq!(keys.len(), 5 * USERS + 1, "{keys:#?}");
    for key in &keys {
        assert!(is_hashed(key), "{key}");
        for value in users.iter().map(String::as_str).chain(["203.0.113.77"]) {
            assert!(!key.contains(value), "{key} has the value {value}");
        }
    }
}

#[test]
fn explain_names_the_hashed_counter_of_a_user() {
    let redis = SingleServer::start(&[]);
    let rules = RuleFile::new(&LIMITS[..1]);
    let node = rules.start_nodes(1, &redis.url(), &[HASHED]).remove(0);
    assert_eq!(node.check(r#"{"domain":"d","attributes":{"user":"user@example.com"}}"#).status, 200);
    let file = rules.path().display().to_string();
    let arguments = ["--domain", "d", "user=user@example.com", "--hash-keys", "--output", "json"];
    let explained = output(&[&["rules", "explain", &file][..], &arguments].concat());
    let explained: serde_json::Value = serde_json::from_slice(&explained.stdout).unwrap();
    let counter = explained["limits"][0]["counter"].as_str().unwrap();
    let keys = counter_keys(&redis);
    assert!(keys.len() == 1 && keys.iter().all(|key| key.ends_with(&format!("}}{counter}"))), "{keys:?}: {counter}");
}

#[test]
fn without_the_setting_keys_have_short_values_in_clear() {
    let redis = SingleServer::start(&[]);
    let rules = RuleFile::new(&LIMITS[..1]);
    let node = rules.start_nodes(1, &redis.url(), &[]).remove(0);
    assert_eq!(node.check(r#"{"domain":"d","attributes":{"user":"user@example.com"}}"#).status, 200);
    let keys = counter_keys(&redis);
    assert!(keys.len() == 1 && keys.iter().all(|key| key.ends_with("/user@example.com")), "{keys:?}");
}

#[test]
fn nodes_of_a_region_agree_on_the_setting() {
    let key = "tidegate:us-east:{region}constants";
    let rules = tempfile::tempdir().unwrap();
    let rules = (rules.path().join("rules.yaml"), rules);
    std::fs::write(&rules.0, "version: 1\ndomains: []\n").unwrap();
    let clear = format!("version={} tags=32 hash=crc16", wire::RECORD_VERSION);
    let hashed = format!("{clear} hash_keys=true");
    // A region that is older than the setting has no text for it.
    for (recorded, setting, fits) in
        [(&clear, "false", true), (&clear, "true", false), (&hashed, "true", true), (&hashed, "false", false)]
    {
        let redis = SingleServer::start(&[]);
        assert_eq!(redis_cli(redis.server.port, &["set", key, recorded]), "OK");
        let mut node = Node::spawn(serve_command(&rules.0, &redis.url(), &[(HASHED.0, setting)]));
        if fits {
            wait_for("the node to reach the store", || (node.get("/ready").json()["store"] == "ok").then_some(()));
        } else {
            let ended = wait_for("the node to end", || node.child.try_wait().unwrap());
            assert_eq!(ended.code(), Some(78), "{recorded}, {setting}: {}", node.log());
            wait_for("the reason in the log", || node.log().contains("hash_keys=true").then_some(()));
        }
        assert_eq!(redis_cli(redis.server.port, &["get", key]), *recorded, "a node does not change the constants");
    }
}
