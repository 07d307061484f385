//! Edits by the admin service and by plain SQL: one order, clear errors, and an audit of both.

use std::sync::Arc;

use limiter::Revision;
use limiter::rules::{Limit, Quota, Rules};
use plane::{KeyHash, KeyRow, Mark, UserRow};
use serde_json::{Value, json};
use tidegate::db::Database;
use tidegate::ports::plane::{Actor, AdminRole, ChangeSource, ConfigStore, DatabaseError, Edit, List, Listed, Page};
use tidegate::rulefile::decode;

use crate::change_log::read;
use crate::single::{AGE, Server, age, rejected, sql};

pub fn ada() -> Actor {
    Actor { name: "ada".to_owned(), role: AdminRole::Owner }
}

pub fn limit(name: &str, hits: u64) -> Box<Limit> {
    let file = json!({ "name": name, "per": ["user"], "limit": hits, "window": "1m", "match": { "tier": "free" } });
    Box::new(decode::limit_from_json(&file).unwrap())
}

pub fn put(name: &str, hits: u64) -> Edit {
    Edit::PutLimit { domain: "api".to_owned(), limit: limit(name, hits) }
}

pub async fn edit(database: &Database, edit: Edit) -> Result<Mark, DatabaseError> {
    database.edit(&ada(), edit, None).await
}

fn rules(yaml: &str) -> Arc<Rules> {
    let book = decode::compile("rules.yaml", yaml, Revision(1)).unwrap();
    Arc::clone(book.rules())
}

async fn list(database: &Database, list: List, size: u32, after: Option<String>) -> Listed {
    database.list(list, Page { size, after }).await.unwrap()
}

const BOOK: &str = r#"
version: 1
domains:
  - domain: api
    default: deny
    identity: either
    limits:
      - { name: minute, per: [user, { ip: { v4: 32, v6: 64 } }], limit: 100, window: 1m, cells: 7, algorithm: rolling_window,
          match: { path: { route: "/v1/{id}" }, tier: [a, b], ip: { not: { cidr: [10.0.0.0/8] } } }, when: hits > 1,
          overrides: [{ match: { user: acme }, limit: unlimited, mode: shadow }], response_headers: { x-plan: free } }
      - { name: day, per: [], limit: unlimited, algorithm: fixed_window, calendar: day, time_zone: Europe/Paris,
          mode: shadow, on_store_failure: deny, overdraft: true }
      - { name: bucket, per: [user], limit: 5, window: 90s, algorithm: token_bucket, burst: 9, exact_keys: [user, user],
          consistency: exact, replaces: [minute] }
  - domain: a/b
    charge: each
    on_identity_failure: allow
    limits: []
"#;

#[tokio::test]
async fn a_rule_book_comes_back_as_it_was_written() {
    let server = Server::start().await;
    let database = server.database();
    let mut book = Rules::clone(&rules(BOOK));
    let first = edit(&database, Edit::ReplaceRules(Arc::new(book.clone()))).await.unwrap();
    book.domains.reverse();
    let snapshot = database.read_all().await.unwrap();
    assert_eq!((snapshot.rules(), snapshot.mark), (book.clone(), first));
    // Rows that stay the same are not written.
    assert_eq!(edit(&database, Edit::ReplaceRules(Arc::new(book.clone()))).await.unwrap(), first);
    book.domains[1].limits[0].limit = Quota::Hits(5);
    let second = edit(&database, Edit::ReplaceRules(Arc::new(book.clone()))).await.unwrap();
    assert_eq!(read(&database, first).await[0].changes.len(), 1);

    book.domains.remove(0);
    book.domains[0].limits.remove(1);
    let third = edit(&database, Edit::ReplaceRules(Arc::new(book.clone()))).await.unwrap();
    assert_eq!(database.read_all().await.unwrap().rules(), book);
    // The history has every revision.
    let at = async |mark: Mark| database.rules_at(mark.revision).await.unwrap().unwrap();
    assert_eq!(at(first).await, {
        let mut old = Rules::clone(&rules(BOOK));
        old.domains.reverse();
        old
    });
    assert_eq!(at(second).await.domains[1].limits[0].limit, Quota::Hits(5));
    assert_eq!(at(third).await, book);
    assert_eq!(database.rules_at(Revision(third.revision.0 + 1)).await.unwrap(), None);
    assert_eq!(database.rules_at(Revision(0)).await.unwrap(), None, "older than the history");
    let history = list(&database, List::History, 2, None).await;
    assert_eq!(history.rows[0]["revision"], json!(third.revision));
    assert_eq!((&history.rows[0]["actor"], history.rows.len()), (&json!("ada"), 2));
    let rest = list(&database, List::History, 2, history.next).await;
    assert_eq!((rest.rows.len(), rest.next), (1, None));

    let mut connection = server.connect().await;
    age(&mut connection).await;
    sql(&mut connection, "SELECT tidegate_prune_change_log('0')").await;
    let aged = Revision(first.revision.0 - AGE);
    assert_eq!(database.rules_at(aged).await.unwrap(), None, "the history does not reach back");
    assert_eq!(at(third).await, book);
}

#[tokio::test]
async fn a_stale_edit_is_refused_with_the_current_revision() {
    let server = Server::start().await;
    let database = server.database();
    let first = edit(&database, put("one", 1)).await.unwrap();
    // Users do not make rules stale.
    edit(&database, Edit::PutUser(UserRow { user: "u".to_owned(), tier: None })).await.unwrap();
    let second = database.edit(&ada(), put("two", 2), Some(first.revision)).await.unwrap();
    let stale = database.edit(&ada(), put("three", 3), Some(first.revision)).await;
    assert_eq!(stale, Err(DatabaseError::Stale { current: second.revision }));

    // Of edits that begin at one revision, one wins.
    let edits = (0..8).map(|n| database.edit(&ada(), put(&format!("n{n}"), n), Some(second.revision)));
    let done = futures_util::future::join_all(edits).await;
    assert_eq!(done.iter().filter(|done| done.is_ok()).count(), 1, "{done:?}");
    assert!(done.iter().all(|done| matches!(done, Ok(_) | Err(DatabaseError::Stale { .. }))), "{done:?}");
}

#[tokio::test]
async fn edits_by_api_and_by_sql_have_one_order() {
    let server = Server::start().await;
    let database = server.database();
    let mut connection = server.connect().await;
    let by_sql = async {
        for n in 0..25 {
            let rule = format!("('api', 'sql-{n}', '[]', {n}, 1000)");
            sql(
                &mut connection,
                &format!("INSERT INTO rate_limit_rules (domain, name, per, limit_hits, window_ms) VALUES {rule}"),
            )
            .await;
        }
    };
    let by_api = async {
        for n in 0..25 {
            edit(&database, put(&format!("api-{n}"), n)).await.unwrap();
        }
    };
    // A reader that follows all the while.
    let follow = async {
        let mut all = Vec::new();
        while all.len() < 50 {
            let after = all.last().map(|transaction: &plane::Transaction| transaction.mark).unwrap_or_default();
            all.extend(read(&database, after).await);
        }
        all
    };
    let ((), (), all) = tokio::join!(by_sql, by_api, follow);
    assert!(all.windows(2).all(|pair| pair[0].mark.revision < pair[1].mark.revision));
    assert_eq!(all, read(&database, Mark::default()).await);
    let limits = database.read_all().await.unwrap().rules().domains[0].limits.len();
    assert_eq!((all.len(), limits), (50, 50));
}

#[tokio::test]
async fn errors_name_the_field_and_what_was_expected() {
    let server = Server::start().await;
    let database = server.database();
    let invalid = |message: &str| Err(DatabaseError::Invalid(message.to_owned()));
    let text = ToOwned::to_owned;
    let user = |tier: Option<&str>| Edit::PutUser(UserRow { user: text("u"), tier: tier.map(text) });
    assert_eq!(edit(&database, user(Some("pro"))).await, invalid("tier: expected a tier of user_tiers"));
    edit(&database, Edit::PutTier { tier: text("pro"), description: text("paid") }).await.unwrap();
    edit(&database, user(Some("pro"))).await.unwrap();
    let used = edit(&database, Edit::RemoveTier { tier: text("pro") }).await;
    assert_eq!(used, invalid("the tier pro: expected a tier that no user and no API key has"));
    let key = |id: &str, byte| KeyRow {
        hash: KeyHash([byte; 32]),
        key_id: text(id),
        user: text("u"),
        tier: None,
        expires_at_ms: None,
        revoked_at_ms: None,
    };
    let create = |key: KeyRow| Edit::CreateKey { key, prefix: text("ak_live_1") };
    edit(&database, create(key("k1", 1))).await.unwrap();
    assert_eq!(edit(&database, create(key("k1", 2))).await, Err(DatabaseError::Exists(text("the API key k1"))));
    let nobody = KeyRow { user: text("nobody"), ..key("k2", 2) };
    assert_eq!(edit(&database, create(nobody)).await, invalid("user_id: expected a user of users"));
    let bad = edit(&database, Edit::PutLimit { domain: text("api"), limit: limit("Upper", 1) }).await;
    assert_eq!(bad, invalid("name: expected 1 to 64 of a-z, 0-9, _ and -"));
    for (missing, name) in [
        (Edit::RemoveLimit { domain: text("api"), name: text("x") }, "the limit api/x"),
        (Edit::RemoveUser { user: text("x") }, "the user x"),
        (Edit::RemoveTier { tier: text("x") }, "the tier x"),
        (Edit::RevokeKey { key_id: text("x"), at_ms: 1 }, "the API key x"),
    ] {
        assert_eq!(edit(&database, missing).await, Err(DatabaseError::NotFound(text(name))));
    }
    let nul = Edit::PutUser(UserRow { user: text("a\0b"), tier: None });
    assert!(matches!(edit(&database, nul).await, Err(DatabaseError::Invalid(_))));
    // Nothing of a refused edit stays.
    assert_eq!(list(&database, List::Keys { user: Some(text("u")) }, 10, None).await.rows.len(), 1);
}

#[tokio::test]
async fn the_audit_names_who_changed_what_and_lists_go_page_by_page() {
    let server = Server::start().await;
    let database = server.database();
    let mut connection = server.connect().await;
    let mark = edit(&database, put("one", 1)).await.unwrap();
    sql(&mut connection, "UPDATE rate_limit_rules SET limit_hits = 2").await;
    sql(&mut connection, "BEGIN; SET LOCAL tidegate.actor = 'bob'; DELETE FROM rate_limit_rules; COMMIT").await;
    let record = Edit::Record { action: "promote".to_owned(), target: "us-east-1".to_owned() };
    edit(&database, record).await.unwrap();
    let token = KeyHash([9; 32]);
    let create = Edit::CreateToken { name: "ci".to_owned(), role: AdminRole::Editor, hash: token };
    edit(&database, create).await.unwrap();
    assert_eq!(database.token(token).await.unwrap(), Some(Actor { name: "ci".to_owned(), role: AdminRole::Editor }));
    assert_eq!(database.token(KeyHash([8; 32])).await.unwrap(), None);

    let mut rows = Vec::new();
    let mut after = None;
    loop {
        let page = list(&database, List::Audit, 2, after).await;
        assert!(page.rows.len() <= 2);
        rows.extend(page.rows);
        after = page.next;
        if after.is_none() {
            break;
        }
    }
    let told: Vec<String> =
        rows.iter().rev().map(|row| format!("{} {} {}", row["actor"], row["action"], row["row"])).collect();
    let expected = [
        "\"ada\" \"insert\" \"api\"",
        "\"ada\" \"insert\" \"api/one\"",
        "\"postgres\" \"update\" \"api/one\"",
        "\"bob\" \"delete\" \"api/one\"",
        "\"ada\" \"promote\" \"us-east-1\"",
        "\"ada\" \"insert\" \"ci\"",
    ];
    assert_eq!(told, expected);
    let update = &rows[3];
    assert_eq!((&update["before"]["limit_hits"], &update["after"]["limit_hits"]), (&json!(1), &json!(2)));
    assert_eq!((&rows[5]["revision"], &update["database_user"]), (&json!(mark.revision), &json!("postgres")));
    assert!(rows.iter().all(|row| !row.to_string().contains(&token.to_string())), "the audit has no hashes");

    for n in 0..5 {
        edit(&database, Edit::PutUser(UserRow { user: format!("u{n}"), tier: None })).await.unwrap();
    }
    let first = list(&database, List::Users { user: None }, 3, None).await;
    let second = list(&database, List::Users { user: None }, 3, first.next.clone()).await;
    let names: Vec<&Value> = first.rows.iter().chain(&second.rows).map(|row| &row["user"]).collect();
    assert_eq!(names, ["u0", "u1", "u2", "u3", "u4"]);
    assert_eq!(second.next, None);
    let one = list(&database, List::Users { user: Some("u3".to_owned()) }, 1, None).await;
    assert_eq!((&one.rows[0]["user"], one.next), (&json!("u3"), None));
    assert_eq!(list(&database, List::Tiers { tier: Some("none".to_owned()) }, 1, None).await.rows, [] as [Value; 0]);
    sql(&mut connection, "INSERT INTO cluster_settings (name, value) VALUES ('far', '1e400')").await;
    let newest = list(&database, List::Audit, 1, None).await;
    assert!(newest.rows[0]["unreadable"].as_str().unwrap().contains("far"), "a number that we cannot read");
    let wrong = database.list(List::Audit, Page { size: 1, after: Some("x".to_owned()) }).await;
    assert!(matches!(wrong, Err(DatabaseError::Invalid(_))));
}

#[tokio::test]
async fn refused_changes_are_in_a_table() {
    let server = Server::start().await;
    let database = server.database();
    let mut connection = server.connect().await;
    let refused = |revision: u64| plane::Refused {
        revision: Revision(revision),
        rows: vec!["api/one".to_owned()],
        errors: vec!["when: expected CEL".to_owned()],
    };
    database.report_refused(&[refused(5), refused(6), refused(6)]).await.unwrap();
    database.report_refused(&[refused(6), refused(7)]).await.unwrap();
    let rows: Vec<(i64, Vec<String>)> = sqlx::query_as("SELECT revision, errors FROM refused_changes ORDER BY 1")
        .fetch_all(&mut connection)
        .await
        .unwrap();
    assert_eq!(rows.iter().map(|row| row.0).collect::<Vec<_>>(), [6, 7]);
    database.report_refused(&[]).await.unwrap();
    let left: i64 =
        sqlx::query_scalar("SELECT count(*) FROM refused_changes").fetch_one(&mut connection).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn old_partitions_go_and_new_ones_come() {
    let server = Server::start().await;
    let database = server.database();
    let mut connection = server.connect().await;
    let old = "CREATE TABLE rate_limit_violations_20200101 PARTITION OF rate_limit_violations
        FOR VALUES FROM ('2020-01-01Z') TO ('2020-01-02Z')";
    sql(&mut connection, old).await;
    sql(
        &mut connection,
        "DO $$ BEGIN EXECUTE (SELECT 'DROP TABLE ' || max(inhrelid::regclass::text) FROM pg_inherits
        WHERE inhparent = 'rate_limit_violations'::regclass); END $$",
    )
    .await;
    database.maintain().await.unwrap();
    let partitions = "SELECT count(*), min(relname)::text > 'rate_limit_violations_2020' || '0101' FROM pg_inherits
        JOIN pg_class ON oid = inhrelid WHERE inhparent = 'rate_limit_violations'::regclass";
    let (count, young): (i64, bool) = sqlx::query_as(partitions).fetch_one(&mut connection).await.unwrap();
    assert_eq!((count, young), (9, true));
    let drop_all = sqlx::query_scalar("SELECT tidegate_drop_partitions(0)");
    let dropped: i32 = drop_all.fetch_one(&mut connection).await.unwrap();
    assert_eq!(dropped, 0, "a node cannot drop the last days");
    sql(
        &mut connection,
        "INSERT INTO rate_limit_violations (at, domain, rule, region, node) VALUES (now(), 'd', 'r', 'eu', 'n')",
    )
    .await;
    rejected(
        &mut connection,
        "INSERT INTO rate_limit_violations (at, domain, rule, region, node) VALUES ('1999-01-01', 'd', 'r', 'eu', 'n')",
    )
    .await;
}

#[tokio::test]
async fn a_newer_schema_gives_rows_of_an_older_program_their_defaults() {
    let server = Server::start().await;
    let mut connection = server.connect().await;
    for table in ["rate_limit_rules", "rate_limit_domains", "cluster_settings"] {
        sql(&mut connection, &format!("ALTER TABLE {table} ADD COLUMN note text NOT NULL DEFAULT 'none'")).await;
    }
    let database = server.database();
    edit(&database, Edit::ReplaceRules(rules(BOOK))).await.unwrap();
    edit(&database, Edit::PutSettings(vec![("x".to_owned(), json!(1))])).await.unwrap();
    sql(&mut connection, "UPDATE rate_limit_rules SET note = 'mine'").await;
    let first = edit(&database, put("one", 1)).await.unwrap();
    let again = edit(&database, Edit::ReplaceRules(rules(BOOK))).await.unwrap();
    assert_eq!(read(&database, first).await.iter().map(|t| t.changes.len()).collect::<Vec<_>>(), [1]);
    assert!(again.revision > first.revision);
    let kept = "SELECT count(*) FROM rate_limit_rules WHERE note <> 'mine'";
    let kept: i64 = sqlx::query_scalar(kept).fetch_one(&mut connection).await.unwrap();
    assert_eq!(kept, 0, "an edit of an older program leaves columns alone that it does not know");
}
