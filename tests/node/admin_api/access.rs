//! Who may do what: roles, tokens and API keys.

use super::*;

#[tokio::test]
async fn a_role_may_do_what_it_needs_and_no_more() {
    let api = Api::new();
    let table = [
        ("GET /rules", AdminRole::Viewer),
        ("GET /rules/history", AdminRole::Viewer),
        ("GET /keys", AdminRole::Viewer),
        ("GET /cluster", AdminRole::Viewer),
        ("GET /cluster/settings", AdminRole::Viewer),
        ("PUT /tiers/gold", AdminRole::Editor),
        ("PUT /users/u1", AdminRole::Editor),
        ("POST /users/u1/keys", AdminRole::Editor),
        ("DELETE /keys/k", AdminRole::Editor),
        ("POST /keys/k/rotate", AdminRole::Editor),
        ("PUT /cluster/settings", AdminRole::Owner),
        ("POST /cluster/members/b/promote", AdminRole::Owner),
        ("DELETE /cluster/members/b", AdminRole::Owner),
        ("GET /cluster/backup", AdminRole::Owner),
        ("GET /audit", AdminRole::Owner),
    ];
    for (call, needed) in table {
        assert_eq!(api.call("", call, "").await.status, 401, "{call}");
        for (token, role) in [(VIEWER, AdminRole::Viewer), (EDITOR, AdminRole::Editor), (OWNER, AdminRole::Owner)] {
            let reply = api.call(token, call, "").await;
            assert_eq!(reply.status == 403, role < needed, "{call} {role}: {}", reply.text);
            assert!(role < needed || reply.status.is_success(), "{call} {role}: {}", reply.text);
        }
    }
}

#[tokio::test]
async fn a_key_is_shown_once_and_its_hash_is_stored() {
    let api = Api::new();
    let made = api.call(EDITOR, "POST /users/u1/keys", r#"{"expires":"90d","tier":"gold"}"#).await;
    let (key, id) = (made.body["api_key"].as_str().unwrap(), made.body["key_id"].as_str().unwrap());
    assert!(key.starts_with("ak_live_") && key.len() == 8 + 48, "{key}");
    assert_eq!(made.headers["cache-control"], "no-store");
    let edits = api.fake.edits.lock().unwrap().clone();
    let [(actor, Edit::CreateKey { key: row, prefix })] = edits.as_slice() else { panic!("{edits:?}") };
    assert_eq!((actor.as_str(), row.hash, row.key_id.as_str()), ("editor", KeyHash::of(key), id));
    assert_eq!(row.expires_at_ms, Some(1_800_000_000_000 + 90 * 86_400_000));
    assert!(key.starts_with(prefix.as_str()) && prefix.len() == 12);
    assert!(!format!("{edits:?}").contains(&key[12..]));
    let other = api.call(EDITOR, "POST /users/u1/keys", "").await;
    assert_ne!(other.body["api_key"], made.body["api_key"]);
    let rotated = api.call(EDITOR, &format!("POST /keys/{id}/rotate"), r#"{"overlap":"1h"}"#).await;
    assert!(rotated.body["api_key"].as_str().unwrap().starts_with("ak_live_"));
    let last = api.fake.edits.lock().unwrap().last().unwrap().1.clone();
    assert!(matches!(last, Edit::RotateKey { old_expires_at_ms: 1_800_003_600_000, .. }), "{last:?}");
    for expires in [r#""0s""#, r#""soon""#, "5", "true", r#""40000d""#] {
        let reply = api.call(EDITOR, "POST /users/u1/keys", format!("{{\"expires\":{expires}}}")).await;
        assert_eq!((reply.status, pointers(&reply)), (StatusCode::BAD_REQUEST, vec!["/expires"]), "{expires}");
    }
}

#[tokio::test]
async fn wrong_tokens_are_limited_and_a_revoked_token_stops() {
    let api = Api::new();
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.status, 200);
    for guess in 0..10 {
        assert_eq!(api.call(&format!("guess-{guess}"), "GET /rules", "").await.status, 401);
    }
    let limited = api.call("guess-10", "GET /rules", "").await;
    assert_eq!(limited.status, 429, "{}", limited.text);
    assert!(limited.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    // Even the right token of an owner is not looked at: otherwise guessing could go on.
    assert_eq!(api.call(OWNER, "GET /rules", "").await.status, 429);
    // A token that was right a moment ago is.
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.status, 200);
    *api.fake.now_us.lock().unwrap() += 60_000_000;
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.status, 200);
    api.fake.tokens.lock().unwrap().clear();
    *api.fake.now_us.lock().unwrap() += 3_000_000;
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.status, 401);
}
