//! What a node may decide about a key, from a look-up that may be old and the changes that the cluster replicates.

use limiter::Revision;
use plane::{CachedKey, Change, KeyRow, KeyVerdict, Owner, RecentChanges, UserRow, resolve};
use proptest::prelude::*;

use crate::support::{hash, key, user};

const NOW: u64 = 1000;

fn looked_up(revision: u64, found: Option<(KeyRow, UserRow)>) -> CachedKey {
    CachedKey { revision: Revision(revision), found }
}

fn recent(changes: &[(u64, Change)]) -> RecentChanges {
    let mut recent = RecentChanges::default();
    changes.iter().for_each(|(revision, change)| recent.remember(Revision(*revision), change));
    recent
}

fn owner(tier: Option<&str>) -> KeyVerdict {
    KeyVerdict::Valid(Owner { user: "u1".to_owned(), tier: tier.map(ToOwned::to_owned), key_id: "k1".to_owned() })
}

fn verdict(cached: Option<&CachedKey>, recent: &RecentChanges) -> KeyVerdict {
    resolve(&hash(1), cached, recent, NOW, false)
}

#[test]
fn a_node_that_knows_nothing_of_a_key_looks_it_up() {
    assert_eq!(verdict(None, &RecentChanges::default()), KeyVerdict::LookUp);
}

#[test]
fn a_look_up_counts_until_a_newer_change() {
    let found = looked_up(10, Some((key(1), user(Some("free")))));
    assert_eq!(verdict(Some(&found), &RecentChanges::default()), owner(Some("free")));
    let missed = looked_up(10, None);
    assert_eq!(verdict(Some(&missed), &RecentChanges::default()), KeyVerdict::Unknown);

    let revoked = KeyRow { revoked_at_ms: Some(NOW), ..key(1) };
    let revocation = recent(&[(11, Change::PutKey(revoked.clone()))]);
    assert_eq!(verdict(Some(&found), &revocation), KeyVerdict::Revoked);
    // The replica lags: its answer is of an older revision, and still says that the key is valid.
    let lagging = looked_up(10, Some((key(1), user(None))));
    assert_eq!(verdict(Some(&lagging), &revocation), KeyVerdict::Revoked);
    let removal = recent(&[(11, Change::RemoveKey { hash: hash(1) })]);
    assert_eq!(verdict(Some(&found), &removal), KeyVerdict::Unknown);

    // A change that the look-up has seen does not count again.
    let restored = looked_up(12, Some((key(1), user(Some("free")))));
    assert_eq!(verdict(Some(&restored), &revocation), owner(Some("free")));
}

#[test]
fn a_new_key_works_where_it_was_a_cached_miss() {
    let missed = looked_up(10, None);
    let created = recent(&[(11, Change::PutUser(user(Some("free")))), (12, Change::PutKey(key(1)))]);
    assert_eq!(verdict(Some(&missed), &created), owner(Some("free")));
    let without_user = recent(&[(12, Change::PutKey(key(1)))]);
    assert_eq!(verdict(Some(&missed), &without_user), KeyVerdict::LookUp, "its user's tier is not known");
}

#[test]
fn a_changed_tier_counts_at_once_and_the_tier_of_a_key_takes_precedence() {
    let found = looked_up(10, Some((key(1), user(Some("free")))));
    let changed = recent(&[(11, Change::PutUser(user(Some("gold"))))]);
    assert_eq!(verdict(Some(&found), &changed), owner(Some("gold")));
    let own = looked_up(10, Some((KeyRow { tier: Some("own".to_owned()), ..key(1) }, user(Some("free")))));
    assert_eq!(verdict(Some(&own), &changed), owner(Some("own")));
}

#[test]
fn a_key_expires_at_its_instant() {
    for (expires, expected) in [(NOW - 1, KeyVerdict::Expired), (NOW, KeyVerdict::Expired), (NOW + 1, owner(None))] {
        let found = looked_up(10, Some((KeyRow { expires_at_ms: Some(expires), ..key(1) }, user(None))));
        assert_eq!(verdict(Some(&found), &RecentChanges::default()), expected, "{expires}");
    }
}

#[test]
fn what_is_forgotten_makes_old_look_ups_count_no_longer() {
    let mut recent = RecentChanges::default();
    recent.forget_until(Revision(50));
    let old = looked_up(49, Some((key(1), user(None))));
    assert_eq!(verdict(Some(&old), &recent), KeyVerdict::LookUp);
    let new = looked_up(50, Some((key(1), user(None))));
    assert_eq!(verdict(Some(&new), &recent), owner(None));
    // Not even while PostgreSQL is away: the key may have been revoked.
    assert_eq!(resolve(&hash(1), Some(&old), &recent, NOW, true), KeyVerdict::LookUp);
}

#[test]
fn an_import_of_many_keys_does_not_make_a_node_forget_a_revoked_one() {
    let mut recent = RecentChanges::default();
    recent.remember(Revision(1), &Change::PutKey(KeyRow { revoked_at_ms: Some(1), ..key(1) }));
    for number in 0..25_000u32 {
        let mut bytes = [0xff; 32];
        bytes[..4].copy_from_slice(&number.to_be_bytes());
        let imported = KeyRow { hash: plane::KeyHash(bytes), ..key(2) };
        recent.remember(Revision(2 + u64::from(number)), &Change::PutKey(imported));
    }
    let found = looked_up(0, Some((key(1), user(None))));
    assert_eq!(verdict(Some(&found), &recent), KeyVerdict::Revoked);
    // Other look-ups of before the import count only while PostgreSQL is away.
    let other = CachedKey { revision: Revision(1), found: Some((key(3), user(None))) };
    assert_eq!(resolve(&hash(3), Some(&other), &recent, NOW, false), KeyVerdict::LookUp);
    assert!(matches!(resolve(&hash(3), Some(&other), &recent, NOW, true), KeyVerdict::Valid(_)));
}

/// One committed change of the key 1 or its user.
fn change() -> impl Strategy<Value = Change> {
    let tier = prop_oneof![Just(None), Just(Some("free")), Just(Some("gold"))];
    prop_oneof![
        tier.clone().prop_map(|tier| Change::PutUser(user(tier))),
        (any::<bool>(), any::<bool>(), tier).prop_map(|(revoked, expired, tier)| Change::PutKey(KeyRow {
            revoked_at_ms: revoked.then_some(1),
            expires_at_ms: expired.then_some(1),
            tier: tier.map(ToOwned::to_owned),
            ..key(1)
        })),
        Just(Change::RemoveKey { hash: hash(1) }),
    ]
}

/// What a database holds after changes, as a look-up shows it.
fn database(changes: &[Change]) -> Option<(KeyRow, UserRow)> {
    let (mut found, mut owner) = (None, user(None));
    for change in changes {
        match change {
            Change::PutKey(key) => found = Some(key.clone()),
            Change::RemoveKey { .. } => found = None,
            Change::PutUser(user) => owner = user.clone(),
            _ => {}
        }
    }
    found.map(|key| (key, owner))
}

proptest! {
    /// Whenever a node decides by itself, it decides as a look-up at the newest revision would, however old its own
    /// look-up is.
    #[test]
    fn a_node_decides_as_the_newest_database_would(
        changes in prop::collection::vec(change(), 1..12),
        looked_up_at in any::<prop::sample::Index>(),
    ) {
        let mut remembered = RecentChanges::default();
        for (change, revision) in changes.iter().zip(1u64..) {
            remembered.remember(Revision(revision), change);
        }
        let at = looked_up_at.index(changes.len() + 1);
        let old = looked_up(at as u64, database(&changes[..at]));
        let newest = looked_up(changes.len() as u64, database(&changes));
        let expected = verdict(Some(&newest), &RecentChanges::default());
        let decided = verdict(Some(&old), &remembered);
        prop_assert!(decided == expected || decided == KeyVerdict::LookUp, "{decided:?}, not {expected:?}");
        // A snapshot of the state keeps this.
        let stored: RecentChanges = serde_json::from_str(&serde_json::to_string(&remembered).unwrap()).unwrap();
        prop_assert_eq!(&stored, &remembered);
    }
}
