//! Rules that are read, put, changed and rolled back.

use super::*;

#[tokio::test]
async fn a_book_is_put_read_and_put_again_as_it_was_read() {
    let api = Api::new();
    let tag = api.put_rules().await;
    let read = api.call(VIEWER, "GET /rules", "").await;
    assert_eq!(read.headers["etag"].to_str().unwrap(), tag);
    assert_eq!(read.body["domains"][0]["limits"][1]["window"], "90s");
    let again = api.call_with(EDITOR, "PUT /rules", &[("if-match", &tag)], read.text.clone()).await;
    assert_eq!(again.status, 200, "{}", again.text);
    let yaml = api.call_with(VIEWER, "GET /rules", &[("accept", "application/yaml")], "").await;
    assert!(yaml.text.contains("name: per-user"), "{}", yaml.text);
    assert_eq!(api.call(EDITOR, "PUT /rules", yaml.text).await.status, 200);
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.body, read.body);
}

#[tokio::test]
async fn every_invalid_field_is_named_and_nothing_is_written() {
    let api = Api::new();
    let tag = api.put_rules().await;
    let invalid = "version: 1\ndomains: [{ domain: '', limits: [{ name: A, per: [], limit: -1, window: 1ms }] }]";
    let reply = api.call(EDITOR, "PUT /rules", invalid).await;
    assert_eq!(reply.status, 400);
    let mut named = pointers(&reply);
    named.sort_unstable();
    let limit = "/domains/0/limits/0";
    assert_eq!(
        named,
        ["/domains/0/domain", &format!("{limit}/limit"), &format!("{limit}/name"), &format!("{limit}/window")]
    );
    let reply = api.call(EDITOR, "PUT /domains/api/limits/new", "{per: [''], limit: 1, window: 1ms, cells: 3}").await;
    assert_eq!((reply.status, pointers(&reply)), (StatusCode::BAD_REQUEST, vec!["/per/0", "/window", "/cells"]));
    let reply = api.call(EDITOR, "PUT /domains/api/limits/new", "{name: old, per: [], limit: 1, window: 1s}").await;
    assert_eq!(pointers(&reply), ["/name"]);
    assert_eq!(api.call(EDITOR, "PUT /rules", "a: [").await.status, 400);
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.headers["etag"].to_str().unwrap(), tag);
}

#[tokio::test]
async fn a_book_over_its_bounds_is_rejected() {
    let api = Api::new();
    let limit = |n: usize| format!("      - {{ name: l{n}, per: [], limit: 1, window: 1s }}\n");
    let book = |count| {
        "version: 1\ndomains:\n  - domain: api\n    limits:\n".to_owned() + &(0..count).map(limit).collect::<String>()
    };
    let reply = api.call(EDITOR, "PUT /rules", book(10_001)).await;
    assert_eq!((reply.status, pointers(&reply)), (StatusCode::BAD_REQUEST, vec!["/domains"]));
    assert!(reply.text.contains("10000 limits"), "{}", reply.text);
    assert_eq!(api.call(EDITOR, "PUT /rules", vec![b' '; 32 * 1024 * 1024 + 1]).await.status, 413);
    assert_eq!(api.call(EDITOR, "PUT /domains/a/limits/l", vec![b' '; 64 * 1024 + 1]).await.status, 413);
    assert_eq!(api.call(EDITOR, "PUT /tiers/gold", vec![b' '; 64 * 1024 + 1]).await.status, 413);
}

#[tokio::test]
async fn a_stale_revision_gets_409_with_the_current_one() {
    let api = Api::new();
    let old = api.put_rules().await;
    let limit = "{per: [], limit: 5, window: 1s}";
    let newer = api.call_with(EDITOR, "PUT /domains/api/limits/new", &[("if-match", &old)], limit).await;
    assert_eq!(newer.status, 200, "{}", newer.text);
    let stale = api.call_with(EDITOR, "DELETE /domains/api/limits/new", &[("if-match", &old)], "").await;
    assert_eq!((stale.status, &stale.body["revision"]), (StatusCode::CONFLICT, &newer.body["revision"]));
    let invalid = api.call_with(EDITOR, "DELETE /domains/api/limits/new", &[("if-match", "new")], "").await;
    assert_eq!((invalid.status, pointers(&invalid)), (StatusCode::BAD_REQUEST, vec!["If-Match"]));
}

#[tokio::test]
async fn an_edit_without_a_precondition_is_made_again_after_an_edit_of_somebody_else() {
    let api = Api::new();
    let tag = api.put_rules().await;
    let rival = || {
        let limit = tidegate::rulefile::decode::read_limit("{per: [], limit: 5, window: 1s}", Some("rival")).unwrap();
        Some(Edit::PutLimit { domain: "api".to_owned(), limit: Box::new(limit) })
    };
    *api.fake.rival.lock().unwrap() = rival();
    let limit = "{per: [], limit: 6, window: 1s}";
    assert_eq!(api.call(EDITOR, "PUT /domains/api/limits/mine", limit).await.status, 200);
    for name in ["rival", "mine"] {
        assert_eq!(api.call(VIEWER, &format!("GET /domains/api/limits/{name}"), "").await.status, 200, "{name}");
    }
    // With a precondition it is not.
    let tag_now = api.call(VIEWER, "GET /rules", "").await.headers["etag"].to_str().unwrap().to_owned();
    assert_ne!(tag, tag_now);
    *api.fake.rival.lock().unwrap() = rival();
    let stale = api.call_with(EDITOR, "DELETE /domains/api/limits/mine", &[("if-match", &tag_now)], "").await;
    assert_eq!(stale.status, 409);
}

#[tokio::test]
async fn a_rollback_is_a_new_revision_with_old_rules() {
    let api = Api::new();
    let old = api.put_rules().await;
    let first = api.call(VIEWER, "GET /rules", "").await.body;
    let removed = api.call(EDITOR, "DELETE /domains/api/limits/all", "").await;
    assert_eq!(removed.status, 200);
    let revision: u64 = old.trim_matches('"').parse().unwrap();
    let back = api.call(EDITOR, "POST /rules/rollback", json!({ "revision": revision }).to_string()).await;
    assert_eq!(back.status, 200, "{}", back.text);
    assert!(back.body["revision"].as_u64() > removed.body["revision"].as_u64());
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.body, first);
    assert_eq!(api.call(VIEWER, &format!("GET /rules?revision={revision}"), "").await.body, first);
    assert_eq!(api.call(EDITOR, "POST /rules/rollback", r#"{"revision":3}"#).await.status, 404);
    assert_eq!(api.call(EDITOR, "POST /rules/rollback", "{}").await.status, 400);
}
