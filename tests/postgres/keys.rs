//! API keys: looked up, rotated and revoked.

use std::sync::Arc;

use plane::{KeyHash, KeyRow, KeyVerdict, UserRow, resolve};
use tidegate::ports::plane::{DatabaseError, Edit, KeyDirectory};

use crate::edits::edit;
use crate::single::Server;

#[tokio::test]
async fn keys_are_looked_up_rotated_and_revoked() {
    let server = Server::start().await;
    let database = server.database();
    let text = ToOwned::to_owned;
    let (old, new) = (KeyHash([1; 32]), KeyHash([2; 32]));
    let missing = database.look_up(old, Arc::default()).await.unwrap();
    assert_eq!(missing.found, None);
    edit(&database, Edit::PutTier { tier: text("pro"), description: String::new() }).await.unwrap();
    edit(&database, Edit::PutUser(UserRow { user: text("u"), tier: Some(text("pro")) })).await.unwrap();
    let key = |hash, id| KeyRow {
        hash,
        key_id: text(id),
        user: text("u"),
        tier: None,
        expires_at_ms: None,
        revoked_at_ms: None,
    };
    let created = edit(&database, Edit::CreateKey { key: key(old, "k1"), prefix: text("ak_live_1") }).await.unwrap();
    let mut state = plane::PlaneState::default();
    crate::failover::follow(&database, &mut state).await;
    let found = database.look_up(old, Arc::new(state)).await.unwrap();
    assert_eq!(found.revision, created.revision);
    let state = plane::RecentChanges::default();
    let KeyVerdict::Valid(owner) = resolve(&old, Some(&found), &state, 0, false) else { panic!("{found:?}") };
    assert_eq!((owner.user.as_str(), owner.tier.as_deref()), ("u", Some("pro")));

    let rotated = Edit::RotateKey {
        key_id: text("k1"),
        key: Box::new(key(new, "k2")),
        prefix: String::new(),
        old_expires_at_ms: 5001,
    };
    edit(&database, rotated.clone()).await.unwrap();
    let (row, _) = database.look_up(old, Arc::default()).await.unwrap().found.unwrap();
    assert_eq!(row.expires_at_ms, Some(5001));
    edit(&database, Edit::RevokeKey { key_id: text("k2"), at_ms: 7007 }).await.unwrap();
    let (row, _) = database.look_up(new, Arc::default()).await.unwrap().found.unwrap();
    assert_eq!(row.revoked_at_ms, Some(7007));
    edit(&database, Edit::RevokeKey { key_id: text("k1"), at_ms: 9 }).await.unwrap();
    let refused = edit(&database, rotated).await;
    assert_eq!(refused, Err(DatabaseError::Invalid(text("the API key k1: expected a key that is not revoked"))));
}

#[tokio::test]
async fn a_rotated_key_expires_as_the_old_one_does_and_an_expired_key_is_not_rotated() {
    const LATER: u64 = 4_000_000_000_000;
    let server = Server::start().await;
    let database = server.database();
    edit(&database, Edit::PutUser(UserRow { user: "u".to_owned(), tier: None })).await.unwrap();
    let key = |number, expires_at_ms| KeyRow {
        hash: KeyHash([number; 32]),
        key_id: format!("k{number}"),
        user: "u".to_owned(),
        tier: None,
        expires_at_ms,
        revoked_at_ms: None,
    };
    let create = |key| edit(&database, Edit::CreateKey { key, prefix: "ak_live_1".to_owned() });
    create(key(1, Some(LATER))).await.unwrap();
    create(key(2, Some(5001))).await.unwrap();
    let rotate = |old: u8, key| {
        let edit_of = Edit::RotateKey {
            key_id: format!("k{old}"),
            key: Box::new(key),
            prefix: String::new(),
            old_expires_at_ms: LATER - 1,
        };
        edit(&database, edit_of)
    };
    for (old, new, given, expected) in [(1, 3, None, LATER), (1, 4, Some(LATER + 7), LATER + 7)] {
        rotate(old, key(new, given)).await.unwrap();
        let (row, _) = database.look_up(KeyHash([new; 32]), Arc::default()).await.unwrap().found.unwrap();
        assert_eq!(row.expires_at_ms, Some(expected));
    }
    let refused = rotate(2, key(5, None)).await;
    assert_eq!(refused, Err(DatabaseError::Invalid("the API key k2: expected a key that is not expired".to_owned())));
    assert_eq!(database.look_up(KeyHash([5; 32]), Arc::default()).await.unwrap().found, None);
}
