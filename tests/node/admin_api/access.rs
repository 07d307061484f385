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
    let rotated = api.call(EDITOR, &format!("POST /keys/{id}/rotate"), r#"{"overlap":"1h","expires":"90d"}"#).await;
    assert!(rotated.body["api_key"].as_str().unwrap().starts_with("ak_live_"));
    let last = api.fake.edits.lock().unwrap().last().unwrap().1.clone();
    let Edit::RotateKey { key: new, old_expires_at_ms: 1_800_003_600_000, .. } = last else { panic!("{last:?}") };
    assert_eq!(new.expires_at_ms, row.expires_at_ms);
    for expires in [r#""0s""#, r#""soon""#, "5", "true", r#""40000d""#] {
        let reply = api.call(EDITOR, "POST /users/u1/keys", format!("{{\"expires\":{expires}}}")).await;
        assert_eq!((reply.status, pointers(&reply)), (StatusCode::BAD_REQUEST, vec!["/expires"]), "{expires}");
    }
}

/// Sends wrong tokens from many addresses until no further one is looked up.
async fn guess(api: &Api) {
    for guess in 0..100 {
        let reply =
            api.call_from(&format!("198.51.100.{guess}"), &format!("guess-{guess}"), "GET /rules", &[], "").await;
        assert_eq!(reply.status, 401);
    }
}

#[tokio::test]
async fn wrong_tokens_are_limited_and_a_removed_token_stops() {
    let api = Api::new();
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.status, 200);
    for guess in 0..10 {
        assert_eq!(api.call(&format!("guess-{guess}"), "GET /rules", "").await.status, 401);
    }
    assert_eq!(api.call(OWNER, "GET /audit", "").await.status, 429, "or guessing the token of a file could go on");
    let limited = api.call("guess-10", "GET /rules", "").await;
    assert_eq!(limited.status, 429, "{}", limited.text);
    assert!(limited.headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() >= 1);
    // A token that this node does not know may be a guess.
    assert_eq!(api.call(EDITOR, "GET /rules", "").await.status, 429);
    api.fake.pass(60);
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.status, 200);
    api.fake.tokens.lock().unwrap().clear();
    api.fake.pass(3);
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.status, 401);
}

#[tokio::test]
async fn the_guesses_of_others_lock_nobody_out_whose_token_is_known() {
    let api = Api::new();
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.status, 200);
    api.fake.pass(60);
    guess(&api).await;
    assert_eq!(api.call(EDITOR, "GET /rules", "").await.status, 429, "the limit of all addresses is reached");
    assert_eq!(api.call(OWNER, "GET /audit", "").await.status, 200, "the token of admin.token_file needs no look-up");
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.status, 200, "it was valid a minute ago");
    api.fake.tokens.lock().unwrap().clear();
    api.fake.pass(60);
    guess(&api).await;
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.status, 401, "it is removed");
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.status, 429, "and from now on it may be a guess");
}

#[tokio::test]
async fn a_token_that_was_valid_reads_and_administers_while_postgresql_is_away() {
    let api = Api::new();
    let owner = "tg_owner_of_postgresql_1c2d";
    let actor = Actor { name: "ana".to_owned(), role: AdminRole::Owner };
    api.fake.tokens.lock().unwrap().insert(KeyHash::of(owner), actor);
    assert_eq!(api.call(owner, "GET /rules", "").await.status, 200);
    assert_eq!(api.call(EDITOR, "GET /rules", "").await.status, 200);
    api.fake.tokens.lock().unwrap().remove(&KeyHash::of(EDITOR));
    api.fake.pass(3);
    assert_eq!(api.call(EDITOR, "GET /rules", "").await.status, 401, "the node has seen that it is removed");
    api.fake.fail(DatabaseError::Unavailable("connection refused".to_owned()));
    assert_eq!(api.call(EDITOR, "GET /rules", "").await.status, 503, "and does not forget it");
    for (call, status) in [
        ("GET /rules", 200),
        ("GET /cluster", 200),
        ("GET /cluster/backup", 200),
        ("POST /cluster/members/b/promote", 204),
        ("PUT /users/u1", 503),
        ("PUT /cluster/settings", 503),
    ] {
        let reply = api.call(owner, call, "").await;
        assert_eq!(reply.status, status, "{call}: {}", reply.text);
    }
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.status, 503, "this node never saw it");
    api.fake.pass(3600);
    assert_eq!(api.call(owner, "GET /rules", "").await.status, 503);
}
