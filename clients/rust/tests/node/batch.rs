//! Batches, several descriptors, and overdraft.

use std::sync::atomic::Ordering;

use http::StatusCode;
use tidegate_client::{Check, CheckError, Client, Config, FailMode, Source};

use crate::servers::{NOBODY, Node, before, check, config, server};

#[tokio::test]
async fn each_check_of_a_batch_is_decided_for_itself() {
    let node = Node::start();
    let client = Client::new(config(&[&node.url])).unwrap();
    let mut first = Check { hits: 5, ..check("u1") };
    first.headers.insert("x-request-id", "request-7".parse().unwrap());
    let results = client.check_all(&[first, check("u1"), Check::new(""), check("u2")]).await.unwrap();
    let [Ok(first), Ok(second), Err(third), Ok(fourth)] = &*results else { panic!("{results:?}") };
    assert_eq!((first.allowed, first.status, &*first.request_id), (true, StatusCode::OK, "request-7"));
    assert_eq!((second.allowed, second.status), (false, StatusCode::TOO_MANY_REQUESTS));
    assert!(second.retry_after.is_some());
    assert_eq!((third.status, &*third.errors[0].pointer), (StatusCode::BAD_REQUEST, "/domain"));
    assert_eq!(fourth.limits[0].remaining, Some(4));
    assert_eq!(client.check_all(&[]).await, Ok(Vec::new()));
}

#[tokio::test]
async fn the_fail_mode_decides_about_a_batch_that_no_node_answers() {
    let client = Client::new(Config { fail_mode: FailMode::Deny, ..config(&[NOBODY]) }).unwrap();
    for result in client.check_all(&[check("u1"), check("u2")]).await.unwrap() {
        let decision = result.unwrap();
        assert_eq!(decision.status, StatusCode::SERVICE_UNAVAILABLE);
        assert!(matches!(decision.source, Source::FailMode(_)));
    }
    let (url, _requests) = server(
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"results\":[{\"request_id\":\"i\",\"error\":{\"status\":503}},
        {\"allowed\":false,\"degraded\":false,\"reason\":\"unknown_key\",\"revision\":1,\"request_id\":\"i\",
        \"retry_after_ms\":null,\"limits\":[]}]}",
    );
    let results = Client::new(config(&[&url])).unwrap().check_all(&[check("u1"), check("u2")]).await.unwrap();
    let [Ok(shed), Ok(unknown)] = &*results else { panic!("{results:?}") };
    assert!(matches!(&shed.source, Source::FailMode(why) if why.contains("503")), "{shed:?}");
    assert_eq!((unknown.status, &unknown.source), (StatusCode::UNAUTHORIZED, &Source::Node));
}

#[tokio::test]
async fn a_rejected_batch_never_fails_open() {
    let node = Node::start();
    let client = Client::new(Config { fail_mode: FailMode::Allow, ..config(&[&node.url]) }).unwrap();
    for (status, count, check) in [
        (StatusCode::BAD_REQUEST, 1001, Check::new("")),
        (StatusCode::PAYLOAD_TOO_LARGE, 300, check(&"x".repeat(4000))),
    ] {
        let answer = client.check_all(&vec![check; count]).await;
        assert!(matches!(&answer, Err(CheckError::Rejected(rejected)) if rejected.status == status), "{answer:?}");
    }
    for answer in [
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{}",
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"results\":[]}",
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"results\":[{}]}",
        "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{\"results\":[{\"error\":{\"status\":200}}]}",
    ] {
        let (url, _requests) = server(answer);
        let read = Client::new(config(&[&url])).unwrap().check_all(&[check("u")]).await;
        assert!(matches!(read, Err(CheckError::NoNode { .. })), "{answer}: {read:?}");
    }
}

#[tokio::test]
async fn all_descriptors_of_a_check_must_fit() {
    let node = Node::start();
    let client = Client::new(config(&[&node.url])).unwrap();
    let descriptors = ["u1", "u2"].map(|user| check(user).attributes).to_vec();
    let both = Check { descriptors, ..Check::new("demo") };
    let positions = client.check(&both).await.unwrap().limits.into_iter().map(|limit| limit.descriptor);
    assert_eq!(positions.collect::<Vec<_>>(), [0, 1]);
    assert!(client.check(&Check { hits: 4, ..check("u2") }).await.unwrap().allowed);
    let denied = client.check(&both).await.unwrap();
    assert!(!denied.allowed && !denied.limits[0].refused && denied.limits[1].refused, "{denied:?}");
    assert_eq!(client.check(&both).await.unwrap().source, Source::DenialCache);
    let first = Check { descriptors: both.descriptors[..1].to_vec(), ..Check::new("demo") };
    assert_eq!(client.check(&first).await.unwrap().limits[0].remaining, Some(3));
    let wrong = client.check(&both.with("user", "u3")).await.unwrap_err().to_string();
    assert!(wrong.contains("/descriptors"), "{wrong}");
}

#[tokio::test]
async fn overdraft_charges_in_any_case() {
    let node = Node::start();
    let (url, count) = before(&node, 1).await;
    let client = Client::new(config(&[&url])).unwrap();
    let costly = Check { hits: 4, overdraft: true, ..check("u") };
    for (check, allowed) in [(&costly, true), (&costly, false), (&check("u"), false), (&costly, false)] {
        let decision = client.check(check).await.unwrap();
        assert_eq!((decision.allowed, decision.source), (allowed, Source::Node));
    }
    assert_eq!(count.load(Ordering::Relaxed), 4);
}
