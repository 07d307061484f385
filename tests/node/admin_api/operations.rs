//! Everything else: failures, a node with a rule file, members, lists, users, and the OpenAPI document.

use super::*;

#[tokio::test]
async fn a_database_that_is_away_says_so_and_an_unknown_outcome_too() {
    let api = Api::new();
    api.put_rules().await;
    *api.fake.failure.lock().unwrap() = Some(DatabaseError::Unavailable("connection refused".to_owned()));
    let away = api.call(EDITOR, "DELETE /domains/api/limits/all", "").await;
    assert_eq!(away.status, 503);
    assert!(away.text.contains("PostgreSQL does not answer") && away.headers.contains_key("retry-after"));
    *api.fake.failure.lock().unwrap() = Some(DatabaseError::UnknownOutcome);
    let unknown = api.call(EDITOR, "DELETE /domains/api/limits/all", "").await;
    assert_eq!((unknown.status, &unknown.body["outcome"]), (StatusCode::GATEWAY_TIMEOUT, &json!("unknown")));
    *api.fake.failure.lock().unwrap() = None;
    api.fake.has_quorum.store(false, Ordering::Relaxed);
    let alone = api.call(EDITOR, "DELETE /domains/api/limits/all", "").await;
    assert_eq!(alone.status, 503);
    assert!(alone.text.contains("quorum"), "{}", alone.text);
    assert_eq!(api.call(VIEWER, "GET /rules", "").await.status, 200);
}

#[tokio::test]
async fn in_file_mode_reads_work_and_writes_name_the_file() {
    let fake = Fake::new();
    let book = tidegate::rulefile::decode::compile("r", RULES, Revision(5)).unwrap();
    fake.books.send_replace(Arc::new(book));
    let api = Api::with(fake, Source::File("/etc/tidegate/rules.yaml".into()));
    let read = api.call(OWNER, "GET /rules", "").await;
    assert_eq!((read.status, read.headers["etag"].to_str().unwrap()), (StatusCode::OK, "\"5\""));
    for call in ["PUT /rules", "DELETE /domains/api/limits/all", "PUT /tiers/gold", "PUT /cluster/settings"] {
        let body = if call == "PUT /rules" { RULES } else { "" };
        let reply = api.call(OWNER, call, body).await;
        assert_eq!((reply.status, &reply.body["file"]), (StatusCode::CONFLICT, &json!("/etc/tidegate/rules.yaml")));
    }
    // No database says who else there is.
    assert_eq!(api.call(EDITOR, "GET /rules", "").await.status, 401);
}

#[tokio::test]
async fn settings_and_members_are_changed_by_the_owner() {
    let api = Api::new();
    let set = api.call(OWNER, "PUT /cluster/settings", r#"{"drop_learner_after_ms":60000}"#).await;
    assert_eq!((set.status, &set.body["in_force"]), (StatusCode::OK, &json!(true)), "{}", set.text);
    let read = api.call(VIEWER, "GET /cluster/settings", "").await;
    assert_eq!(read.body, json!({ "drop_learner_after_ms": 60000 }));
    let wrong = api.call(OWNER, "PUT /cluster/settings", r#"{"drop_learner_after_ms":1,"weight":2}"#).await;
    assert_eq!(pointers(&wrong), ["/drop_learner_after_ms", "/weight"]);
    assert_eq!(api.call(OWNER, "POST /cluster/init", r#"{"voters":{"a":"h:1"}}"#).await.status, 204);
    assert_eq!(api.call(OWNER, "POST /cluster/members/b/demote", "").await.status, 204);
    assert_eq!(api.call(OWNER, "POST /cluster/restore", "bytes").await.status, 204);
    let changes = api.fake.changes.lock().unwrap().clone();
    assert_eq!(changes.len(), 3);
    assert_eq!(changes[1], MemberChange::Demote { node: "b".to_owned() });
    let recorded = api.fake.edits.lock().unwrap().clone();
    let record = Edit::Record { action: "cluster demote".to_owned(), target: "b".to_owned() };
    assert!(recorded.contains(&("admin.token_file".to_owned(), record)), "{recorded:?}");
    let status = api.call(VIEWER, "GET /cluster", "").await.body;
    assert_eq!((&status["leader"], &status["members"][0]["role"]), (&json!("a-1"), &json!("leader")));
    assert_eq!(api.call(OWNER, "GET /cluster/backup", "").await.text, "a backup");
}

#[tokio::test]
async fn lists_have_pages_and_unknown_parameters_are_named() {
    let api = Api::new();
    let page = api.call(VIEWER, "GET /keys?user=u1&limit=7&after=x", "").await;
    assert_eq!(page.body["next"], "n");
    let row = &page.body["items"][0];
    assert_eq!((&row["size"], &row["after"]), (&json!(7), &json!("x")));
    for query in ["limit=0", "limit=1001", "limit=x", "size=1", "limit=1&limit=2"] {
        assert_eq!(api.call(VIEWER, &format!("GET /users?{query}"), "").await.status, 400, "{query}");
    }
}

#[tokio::test]
async fn every_route_is_in_the_openapi_document() {
    let api = Api::new();
    let document = api.call("", "GET /openapi.json", "").await;
    assert_eq!(document.status, 200);
    let paths = document.body["paths"].as_object().unwrap();
    let source = include_str!("../../../src/api/admin/mod.rs");
    let routed: Vec<&str> = source.split("\"/admin/v1/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(routed.len() > 20, "{routed:?}");
    for path in &routed {
        assert!(paths.contains_key(&format!("/admin/v1/{path}")), "{path}");
    }
    assert_eq!(paths.len(), routed.len());
    assert!(document.body["components"]["schemas"]["Problem"]["properties"]["errors"].is_object());
    for call in ["/rules", "/domains/{domain}/limits/{limit}"] {
        assert!(paths[&format!("/admin/v1{call}")]["put"]["requestBody"].is_object(), "{call}");
    }
    for (path, methods) in paths {
        for call in methods.as_object().unwrap().values() {
            let problem = &call["responses"]["default"]["content"]["application/problem+json"]["schema"];
            assert_eq!(problem["$ref"], "#/components/schemas/Problem", "{path}");
        }
        for method in methods.as_object().unwrap().keys() {
            let call = format!("{} {}", method.to_uppercase(), path.strip_prefix("/admin/v1").unwrap());
            let open = path.ends_with("openapi.json");
            assert_eq!(api.call("", &call.replace(['{', '}'], "x"), "").await.status, if open { 200 } else { 401 });
        }
    }
    // Each call of the code is there: as many handlers as operations.
    let handlers: usize = [
        include_str!("../../../src/api/admin/rules.rs"),
        include_str!("../../../src/api/admin/directory.rs"),
        include_str!("../../../src/api/admin/cluster.rs"),
        include_str!("../../../src/api/admin/openapi.rs"),
    ]
    .map(|code| code.matches("pub async fn").count())
    .iter()
    .sum();
    let operations: usize = paths.values().map(|methods| methods.as_object().unwrap().len()).sum();
    assert_eq!(handlers, operations);
}

#[tokio::test]
async fn one_tier_one_user_and_refused_transactions_are_read() {
    let api = Api::new();
    assert_eq!(api.call(VIEWER, "GET /tiers/gold", "").await.status, 404);
    let missing = api.call(VIEWER, "GET /users/u1", "").await;
    assert!(missing.status == 404 && missing.text.contains("the user u1 does not exist"), "{}", missing.text);
    api.call(EDITOR, "PUT /tiers/gold", r#"{"description":"paid"}"#).await;
    api.call(EDITOR, "PUT /users/u1", r#"{"tier":"gold"}"#).await;
    assert_eq!(api.call(VIEWER, "GET /tiers/gold", "").await.body["description"], "paid");
    assert_eq!(api.call(VIEWER, "GET /users/u1", "").await.body["tier"], "gold");
    assert_eq!(api.call(VIEWER, "GET /cluster", "").await.body["refused"], 0);
    api.fake.refuse(&["limit api/broken"], &["limit: expected a number"]);
    assert_eq!(api.call(VIEWER, "GET /cluster", "").await.body["refused"], 1);
    let refused = api.call(VIEWER, "GET /rules/refused", "").await.body["items"][0].take();
    let expected = json!({ "revision": 7, "rows": ["limit api/broken"], "errors": ["limit: expected a number"] });
    assert_eq!(refused, expected);
}

#[tokio::test]
async fn a_user_row_is_written_as_asked() {
    let api = Api::new();
    assert_eq!(api.call(EDITOR, "PUT /users/u1", r#"{"tier":"gold"}"#).await.status, 200);
    let edits = api.fake.edits.lock().unwrap().clone();
    let user = UserRow { user: "u1".to_owned(), tier: Some("gold".to_owned()) };
    assert_eq!(edits, [("editor".to_owned(), Edit::PutUser(user))]);
    assert_eq!(api.call(EDITOR, "PUT /users/u1", r#"{"teir":"gold"}"#).await.status, 400);
}
