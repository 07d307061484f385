//! Tests of the client with a real node, which `TIDEGATE_PROGRAM` names. `scripts/clients rust` builds the node.

#![expect(clippy::disallowed_methods, reason = "this crate runs without the node's ports")]

use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::routing::get;
use http::StatusCode;
use servers::{NOBODY, Node, PATIENCE, check, config, server};
use tidegate_client::{Check, CheckError, Client, Config, FailMode, RateLimitLayer, Source};
use tower_service::Service;

mod batch;
mod places;
mod servers;

#[tokio::test]
async fn exactly_the_limit_is_admitted_and_a_denial_says_when_to_ask_again() {
    let node = Node::start();
    let client = Client::new(config(&[&node.url])).unwrap();
    for left in (0..5).rev() {
        let decision = client.check(&check("u")).await.unwrap();
        assert!(decision.allowed && decision.source == Source::Node);
        assert_eq!(decision.limits[0].remaining, Some(left));
    }
    let denied = client.check(&check("u")).await.unwrap();
    assert_eq!((denied.allowed, denied.status), (false, StatusCode::TOO_MANY_REQUESTS));
    assert!(denied.retry_after.is_some() && denied.headers.contains_key("retry-after"));
    assert!(denied.headers.contains_key("ratelimit") && denied.headers.contains_key("ratelimit-policy"));
    assert!(client.check(&check("other")).await.unwrap().allowed);
}

#[tokio::test]
async fn a_denial_is_remembered_and_no_node_is_asked_until_it_ends() {
    let node = Node::start();
    let client = Client::new(config(&[&node.url])).unwrap();
    let five = Check { hits: 5, ..check("u") };
    assert!(client.check(&five).await.unwrap().allowed);
    assert!(!client.check(&check("u")).await.unwrap().allowed);
    drop(node);
    let remembered = client.check(&check("u")).await.unwrap();
    assert_eq!((remembered.allowed, remembered.source), (false, Source::DenialCache));
    assert!(remembered.retry_after.is_some());
    let forgetful = Client::new(Config { denial_cache_size: 0, ..config(&[NOBODY]) }).unwrap();
    assert!(matches!(forgetful.check(&check("u")).await.unwrap().source, Source::FailMode(_)));
}

#[tokio::test]
async fn the_next_node_is_asked_if_one_is_gone_stands_still_or_fails() {
    let node = Node::start();
    let failing = server("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").0;
    for first in [NOBODY.to_owned(), failing] {
        let client = Client::new(config(&[&first, &node.url])).unwrap();
        assert_eq!(client.check(&check(&first)).await.unwrap().source, Source::Node, "{first}");
    }
    let still = Node::start();
    still.signal("STOP");
    let client = Client::new(Config { deadline: Duration::from_secs(2), ..config(&[&still.url, &node.url]) }).unwrap();
    assert_eq!(client.check(&check("still")).await.unwrap().source, Source::Node);
    still.signal("CONT");
}

/// A decision with `allowed` as here.
fn decision(allowed: bool) -> String {
    let rest = r#""degraded":false,"revision":1,"request_id":"","retry_after_ms":null,"limits":[]"#;
    format!(r#"{{"allowed":{allowed},{rest}}}"#)
}

/// An answer with this head and this body.
fn answer(head: &str, body: &str) -> &'static str {
    format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}", body.len()).leak()
}

#[tokio::test]
async fn only_a_status_of_200_allows() {
    let decided = async |head: &str, allowed| {
        let (url, _requests) = server(answer(head, &decision(allowed)));
        let client = Client::new(Config { fail_mode: FailMode::Allow, ..config(&[&url]) }).unwrap();
        client.check(&check("u")).await
    };
    assert!(decided("200 OK", true).await.unwrap().allowed);
    let denied = decided("429 Too Many Requests\r\nretry-after: 7", true).await.unwrap();
    assert_eq!((denied.allowed, denied.status), (false, StatusCode::TOO_MANY_REQUESTS));
    assert_eq!(denied.retry_after, Some(Duration::from_secs(7)));
    assert!(matches!(decided("401 Unauthorized", true).await, Err(CheckError::Rejected(_))));
    assert!(matches!(decided("200 OK", false).await, Err(CheckError::NoNode { .. })));
}

#[tokio::test]
async fn a_200_that_is_too_long_never_fails_open() {
    let long = " ".repeat(1 << 20) + &decision(true);
    let (url, _requests) = server(answer("200 OK", &long));
    let client = Client::new(Config { fail_mode: FailMode::Allow, ..config(&[&url]) }).unwrap();
    assert!(matches!(client.check(&check("u")).await, Err(CheckError::NoNode { .. })));
}

#[tokio::test]
async fn a_4xx_with_a_body_that_cannot_be_read_never_fails_open() {
    for (status, end) in [
        ("403 Forbidden", "connection: close"),
        ("429 Too Many Requests", "connection: close"),
        ("403 Forbidden", "content-length: 2000000"),
        ("429 Too Many Requests", "content-length: 2000000"),
    ] {
        let head = format!("HTTP/1.1 {status}\r\nretry-after: 7\r\n{end}\r\n\r\n{{");
        let (url, _requests) = server(head.leak());
        let client = Client::new(Config { fail_mode: FailMode::Allow, ..config(&[&url]) }).unwrap();
        match client.check(&check("u")).await {
            Ok(denied) => {
                assert_eq!((denied.allowed, denied.status), (false, StatusCode::TOO_MANY_REQUESTS));
                assert_eq!((denied.retry_after, denied.source), (Some(Duration::from_secs(7)), Source::Node));
                assert_eq!(denied.headers["retry-after"], "7");
            }
            Err(CheckError::Rejected(rejected)) => assert_eq!(rejected.status, StatusCode::FORBIDDEN),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn without_a_node_the_fail_mode_decides_within_the_deadline() {
    let still = Node::start();
    still.signal("STOP");
    for (mode, allowed, status) in
        [(FailMode::Allow, true, StatusCode::OK), (FailMode::Deny, false, StatusCode::SERVICE_UNAVAILABLE)]
    {
        let nodes = [&*still.url, NOBODY];
        let deadline = Duration::from_millis(200);
        let client = Client::new(Config { fail_mode: mode, deadline, ..config(&nodes) }).unwrap();
        let decided = tokio::time::timeout(PATIENCE, client.check(&check("u"))).await.expect("the deadline must hold");
        let decision = decided.unwrap();
        assert_eq!((decision.allowed, decision.status), (allowed, status));
        let Source::FailMode(why) = decision.source else { panic!("{:?}", decision.source) };
        assert!(why.contains("no answer within") && why.contains("efused"), "{why}");
    }
    still.signal("CONT");
}

#[tokio::test]
async fn a_check_that_a_node_rejects_never_lets_a_request_pass() {
    let node = Node::start();
    let client = Client::new(config(&[&node.url, &node.url])).unwrap();
    let Err(CheckError::Rejected(rejected)) = client.check(&Check::new("")).await else { panic!("expected an error") };
    assert_eq!((rejected.status, &*rejected.errors[0].pointer), (StatusCode::BAD_REQUEST, "/domain"));
    let large = Check::new("demo").with("user", "x".repeat(100_000));
    let Err(CheckError::Rejected(rejected)) = client.check(&large).await else { panic!("expected an error") };
    assert_eq!(rejected.status, StatusCode::PAYLOAD_TOO_LARGE);
    for answer in [
        "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}",
        "HTTP/1.1 301 Moved\r\nlocation: http://127.0.0.1/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
    ] {
        let (url, _requests) = server(answer);
        assert!(Client::new(config(&[&url])).unwrap().check(&check("u")).await.is_err(), "{answer}");
    }
}

#[tokio::test]
async fn the_trace_context_and_the_token_go_to_the_node() {
    let (url, requests) = server("HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let client = Client::new(Config { token: Some("a-token".to_owned()), ..config(&[&url]) }).unwrap();
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let request = Request::get("/").header("traceparent", trace).header("x-request-id", "mine").header("cookie", "c");
    let (parts, ()) = request.body(()).unwrap().into_parts();
    client.check(&check("u").on_behalf_of(&parts.headers)).await.unwrap();
    let sent = requests.recv_timeout(PATIENCE).unwrap();
    for expected in [&format!("traceparent: {trace}"), "x-request-id: mine", "authorization: Bearer a-token"] {
        assert!(sent.contains(expected), "{expected} in {sent}");
    }
    assert!(!sent.contains("cookie"), "{sent}");
    assert!(!format!("{client:?}").contains("Bearer a-token"));
}

#[tokio::test]
async fn only_short_headers_that_are_carried_go_to_the_node() {
    let (url, requests) = server(answer("200 OK", &decision(true)));
    let client = Client::new(config(&[&url])).unwrap();
    let request = Request::get("/").header("content-length", "7").header("cookie", "c").header("x-request-id", "mine");
    let request = request.header("tracestate", "x".repeat(2000)).body(()).unwrap();
    let check = Check { headers: request.headers().clone(), ..check("u") };
    assert!(client.check(&check).await.unwrap().allowed);
    let sent = requests.recv_timeout(PATIENCE).unwrap();
    assert!(sent.contains("x-request-id: mine"), "{sent}");
    for absent in ["cookie", "tracestate", "content-length: 7\r"] {
        assert!(!sent.contains(absent), "{absent} in {sent}");
    }
}

#[tokio::test]
async fn the_layer_answers_for_the_service_that_it_protects() {
    let node = Node::start();
    let client = Client::new(config(&[&node.url])).unwrap();
    let per_user = |request: &Request| {
        let user = request.headers().get("x-user")?.to_str().ok()?;
        Some(Check::new(if user.is_empty() { "" } else { "demo" }).with("user", user))
    };
    let mut app = Router::new().route("/", get(async || "hello")).layer(RateLimitLayer::new(client, per_user));
    let mut ask = async |user: Option<&str>| {
        let mut request = Request::get("/");
        if let Some(user) = user {
            request = request.header("x-user", user);
        }
        app.call(request.body(Body::empty()).unwrap()).await.unwrap()
    };
    for _ in 0..5 {
        let response = ask(Some("u")).await;
        assert!(response.status() == StatusCode::OK && response.headers().contains_key("ratelimit"));
    }
    let denied = ask(Some("u")).await;
    assert!(denied.status() == StatusCode::TOO_MANY_REQUESTS && denied.headers().contains_key("retry-after"));
    assert_eq!(ask(None).await.status(), StatusCode::OK, "a request that is not described is not limited");
    let invalid = ask(Some("")).await;
    assert_eq!(invalid.status(), StatusCode::INTERNAL_SERVER_ERROR);
    assert!(invalid.extensions().get::<CheckError>().is_some());
}
