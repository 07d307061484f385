//! `POST /v1/checks`.

use crate::node::Node;

const BATCH: &str = "POST /v1/checks HTTP/1.1\r\nx-request-id: mine";

#[test]
fn each_check_of_a_batch_is_decided_by_itself_and_in_order() {
    let node = Node::dev(&[]);
    let one = |user: &str| format!(r#"{{"domain":"demo","attributes":{{"user":"{user}"}}}}"#);
    // The limit of the sample rules is 5.
    let checks: Vec<String> = ["a", "a", "a", "b", "a", "a", "a"].iter().map(|user| one(user)).collect();
    let invalid = r#"{"domain":"demo","hits":-1}"#.to_owned();
    let body = format!(r#"{{"checks":[{}]}}"#, [checks, vec![invalid, one("c")]].concat().join(","));
    let answer = node.send(BATCH, &body);
    assert_eq!((answer.status, answer.header("x-request-id")), (200, Some("mine")));
    let results = answer.json()["results"].as_array().unwrap().clone();
    let allowed: Vec<Option<bool>> = results.iter().map(|result| result["allowed"].as_bool()).collect();
    let (yes, no) = (Some(true), Some(false));
    assert_eq!(allowed, [yes, yes, yes, yes, yes, yes, no, None, yes]);
    assert_eq!(results[7]["error"]["errors"][0]["pointer"], "/hits");
    assert!(results.iter().all(|result| result["request_id"] == "mine"));
    assert_eq!(node.check(&one("b")).header("x-ratelimit-remaining"), Some("3"), "a batch charges as its checks do");
}

#[test]
fn a_batch_that_is_not_valid_charges_nothing() {
    let node = Node::dev(&[]);
    let check = r#"{"domain":"demo","attributes":{"user":"a"}}"#;
    let many = format!(r#"{{"checks":[{}]}}"#, vec![check; 1001].join(","));
    let large = format!(r#"{{"checks":[{check}],"more":"{}"}}"#, "x".repeat(1024 * 1024));
    for (body, status) in [(r#"{"checks":[]}"#, 400), ("{}", 400), (many.as_str(), 400), (large.as_str(), 413)] {
        assert_eq!(node.send(BATCH, body).status, status, "{body:.60}");
    }
    assert_eq!(node.check(check).header("x-ratelimit-remaining"), Some("4"));
    let thousand = format!(r#"{{"checks":[{}]}}"#, vec![check; 1000].join(","));
    let results = node.send(BATCH, &thousand).json()["results"].clone();
    let allowed = results.as_array().unwrap().iter().filter(|result| result["allowed"] == true).count();
    assert_eq!((results.as_array().unwrap().len(), allowed), (1000, 4));
}
