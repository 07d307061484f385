//! The commands that manage a running node, against the admin API over a configuration plane in memory.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};
use tidegate::ports::plane::{DatabaseError, Edit, MemberChange};

use super::admin_api::{Api, EDITOR, OWNER, RULES};
use super::node::{Node, tidegate, wait_for};

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {} {}", self.out, self.err))
    }
}

/// Runs a command with an admin token, without a terminal.
async fn run(node: SocketAddr, token: &str, arguments: &[&str]) -> Ran {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tidegate"));
    command.args(arguments).env("TIDEGATE_TOKEN", token).stdin(Stdio::null());
    command.args(["--addr", &format!("http://{node}")]);
    let Output { status, stdout, stderr } =
        tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: status.code().unwrap(), out: text(stdout), err: text(stderr) }
}

/// Runs a command on a terminal, where somebody types `answer`.
async fn run_on_terminal(node: SocketAddr, token: &str, arguments: &str, answer: &str) -> Ran {
    let program = env!("CARGO_BIN_EXE_tidegate");
    let mut command = Command::new("script");
    command.args(["-qec", &format!("{program} {arguments} --addr http://{node}"), "/dev/null"]);
    command.env("TIDEGATE_TOKEN", token).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(format!("{answer}\n").as_bytes()).unwrap();
    let Output { status, stdout, .. } =
        tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    Ran { code: status.code().unwrap(), out: String::from_utf8(stdout).unwrap(), err: String::new() }
}

fn write(folder: &Path, name: &str, text: &str) -> String {
    let path = folder.join(name);
    std::fs::File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
    path.to_str().unwrap().to_owned()
}

#[tokio::test]
async fn rules_are_applied_after_their_differences_are_shown() {
    let (api, folder) = (Api::new(), tempfile::tempdir().unwrap());
    let node = api.serve().await;
    let file = write(folder.path(), "rules.yaml", RULES);
    let refused = run(node, EDITOR, &["rules", "apply", &file]).await;
    assert_eq!(refused.code, 1);
    assert!(refused.err.contains("--yes") && refused.out.contains("+ api/per-user"), "{} {}", refused.out, refused.err);
    assert!(api.fake.edits().is_empty());
    let applied = run(node, EDITOR, &["rules", "apply", &file, "--yes"]).await;
    assert_eq!(applied.code, 0, "{}", applied.err);
    assert!(applied.out.contains("is in force"), "{}", applied.out);
    let again = run(node, EDITOR, &["rules", "apply", &file]).await;
    assert_eq!(again.code, 0, "{}", again.err);
    assert!(again.out.contains("nothing changes"), "{}", again.out);
    let changed = RULES.replace("limit: 10,", "limit: 5,").replace("window: 90s", "window: 1h");
    let file = write(folder.path(), "changed.yaml", &changed);
    let diff = run(node, EDITOR, &["rules", "diff", &file]).await;
    assert_eq!(diff.code, 0, "{}", diff.err);
    for line in ["~ api/per-user  (counters continue, stricter)", "limit: 10 -> 5", "~ api/all  (counters start anew)"]
    {
        assert!(diff.out.contains(line), "{line}: {}", diff.out);
    }
    let diff = run(node, EDITOR, &["rules", "diff", &file, "--output", "json"]).await.json();
    assert_eq!(diff["changes"][1]["effects"], json!(["counters_continue", "stricter"]));
    let invalid = write(folder.path(), "invalid.yaml", &RULES.replace("limit: 10,", "limit: ten,"));
    let invalid = run(node, EDITOR, &["rules", "apply", &invalid, "--yes"]).await;
    assert_eq!(invalid.code, 78);
    assert!(invalid.err.contains("invalid.yaml:6:"), "{}", invalid.err);
}

#[tokio::test]
async fn limits_are_listed_put_removed_rolled_back_and_exported() {
    let (api, folder) = (Api::new(), tempfile::tempdir().unwrap());
    let node = api.serve().await;
    let file = write(folder.path(), "rules.yaml", RULES);
    let applied = run(node, EDITOR, &["rules", "apply", &file, "--yes", "--output", "json"]).await.json();
    let listed = run(node, EDITOR, &["rules", "list", "--output", "json"]).await.json();
    assert_eq!(listed["revision"], applied["revision"]);
    assert_eq!(listed["book"]["domains"][0]["limits"][0]["name"], "per-user");
    let limit = write(folder.path(), "limit.yaml", "{ per: [], limit: 3, window: 1s }");
    let put = run(node, EDITOR, &["rules", "put", "api/new", &limit]).await;
    assert_eq!(put.code, 0, "{}", put.err);
    let table = run(node, EDITOR, &["rules", "list"]).await.out;
    assert!(table.contains("new") && table.contains("sliding_window"), "{table}");
    assert_eq!(run(node, EDITOR, &["rules", "rm", "api/new"]).await.code, 0);
    let missing = run(node, EDITOR, &["rules", "rm", "api/new"]).await;
    assert_eq!(missing.code, 1);
    assert!(missing.err.contains("the limit api/new does not exist"), "{}", missing.err);
    let revision = applied["revision"].to_string();
    assert_eq!(run(node, EDITOR, &["rules", "rollback", &revision]).await.code, 0);
    let exported = run(node, EDITOR, &["rules", "export"]).await.out;
    let file = write(folder.path(), "exported.yaml", &exported);
    assert!(run(node, EDITOR, &["rules", "apply", &file]).await.out.contains("nothing changes"));
}

#[tokio::test]
async fn refused_transactions_are_shown_and_apply_says_that_it_removes_them() {
    let (api, folder) = (Api::new(), tempfile::tempdir().unwrap());
    let node = api.serve().await;
    let file = write(folder.path(), "rules.yaml", RULES);
    assert_eq!(run(node, EDITOR, &["rules", "apply", &file, "--yes"]).await.code, 0);
    let none = run(node, EDITOR, &["rules", "list"]).await.out;
    assert!(!none.contains("refused"), "{none}");
    assert_eq!(run(node, EDITOR, &["rules", "refused"]).await.out, "none\n");
    api.fake.refuse(&["limit api/broken", "limit api/all"], &["limit: expected a number"]);
    for call in [&["rules", "list"][..], &["rules", "history"], &["cluster", "status"]] {
        let shown = run(node, EDITOR, call).await.out;
        assert!(shown.ends_with("\n1 transaction is refused: `tidegate rules refused`\n"), "{shown}");
    }
    let table = run(node, EDITOR, &["rules", "refused"]).await.out;
    assert!(table.contains("limit api/broken") && table.contains("expected a number"), "{table}");
    // Only the refused rows differ from the file.
    let edits = api.fake.edits().len();
    let asked = run(node, EDITOR, &["rules", "apply", &file]).await;
    assert_eq!(asked.code, 1, "{}", asked.out);
    for line in ["- limit api/broken  (refused at revision 7", "~ limit api/all  (refused at revision 7"] {
        assert!(asked.out.contains(line), "{line}: {}", asked.out);
    }
    assert_eq!(run(node, EDITOR, &["rules", "apply", &file, "--yes"]).await.code, 0);
    assert_eq!(api.fake.edits().len(), edits + 1);
}

#[tokio::test]
async fn keys_users_tiers_and_the_cluster_are_managed() {
    let (api, folder) = (Api::new(), tempfile::tempdir().unwrap());
    let node = api.serve().await;
    for call in [&["tiers", "put", "gold"][..], &["users", "put", "a/b c", "--tier", "gold"], &["tiers", "rm", "gold"]]
    {
        let ran = run(node, EDITOR, call).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    let user = plane::UserRow { user: "a/b c".to_owned(), tier: Some("gold".to_owned()) };
    assert!(api.fake.edits().contains(&Edit::PutUser(user)));
    let key =
        run(node, EDITOR, &["keys", "create", "--user", "u1", "--expires", "1d", "--output", "json"]).await.json();
    assert!(key["api_key"].as_str().unwrap().starts_with("ak_live_") && key["key_id"].is_string());
    assert_eq!(run(node, EDITOR, &["keys", "revoke", key["key_id"].as_str().unwrap()]).await.code, 0);
    let denied = run(node, EDITOR, &["cluster", "promote", "b"]).await;
    assert_eq!(denied.code, 1);
    assert!(denied.err.contains("needs a token with the role owner"), "{}", denied.err);
    assert_eq!(run(node, OWNER, &["cluster", "promote", "b"]).await.code, 0);
    assert_eq!(run(node, OWNER, &["cluster", "init", "--voters", "a=h:1,b=h:2"]).await.code, 0);
    let voters = vec![("a".to_owned(), "h:1".to_owned()), ("b".to_owned(), "h:2".to_owned())];
    assert_eq!(api.fake.changes().last(), Some(&MemberChange::Init { voters }));
    let status = run(node, OWNER, &["cluster", "status", "--output", "json"]).await.json();
    assert_eq!((&status["leader"], &status["members"][0]["revision"]), (&json!("a-1"), &json!(7)));
    assert_eq!(status["members"][0]["last_seen_ms"], 1500);
    let table = run(node, OWNER, &["cluster", "status"]).await.out;
    let line = |word: &str| table.lines().find(|line| line.contains(word)).unwrap();
    assert!(line("last seen").contains("revision"));
    assert!(line("a-1 ").contains("1.5s ago") && line("learner").contains('–'), "{table}");
    let unset = run(node, OWNER, &["cluster", "settings", "get"]).await.out;
    for text in ["drop_learner_after_ms", "(default)", "3600000", "milliseconds", "meaning"] {
        assert!(unset.contains(text), "{text}: {unset}");
    }
    assert_eq!(run(node, OWNER, &["cluster", "settings", "set", "drop_learner_after_ms=60000"]).await.code, 0);
    let set = run(node, OWNER, &["cluster", "settings", "get"]).await.out;
    assert!(set.contains(" 60000 ") && !set.contains("(default)"), "{set}");
    let file = folder.path().join("backup");
    let backup = run(node, OWNER, &["cluster", "backup", file.to_str().unwrap()]).await;
    assert_eq!(backup.code, 0, "{}", backup.err);
    assert_eq!(std::fs::read(&file).unwrap(), b"a backup");
    assert_eq!(run(node, OWNER, &["cluster", "backup", file.to_str().unwrap()]).await.code, 1);
    assert_eq!(run(node, OWNER, &["cluster", "restore", file.to_str().unwrap()]).await.code, 0);
    assert_eq!(api.fake.changes().last(), Some(&MemberChange::Restore { backup: b"a backup".to_vec() }));
}

#[tokio::test]
async fn a_put_without_flags_keeps_what_is_stored() {
    let api = Api::new();
    let node = api.serve().await;
    let user =
        |tier: Option<&str>| Edit::PutUser(plane::UserRow { user: "u".to_owned(), tier: tier.map(str::to_owned) });
    let tier = |text: &str| Edit::PutTier { tier: "gold".to_owned(), description: text.to_owned() };
    let steps: [(&[&str], Option<Edit>); 7] = [
        (&["tiers", "put", "gold"], Some(tier(""))),
        (&["tiers", "put", "gold", "--description", "paid"], Some(tier("paid"))),
        (&["tiers", "put", "gold"], None),
        (&["users", "put", "u"], Some(user(None))),
        (&["users", "put", "u", "--tier", "gold"], Some(user(Some("gold")))),
        (&["users", "put", "u"], None),
        (&["users", "put", "u", "--no-tier"], Some(user(None))),
    ];
    for (call, written) in steps {
        let before = api.fake.edits().len();
        let ran = run(node, EDITOR, call).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
        assert_eq!(ran.out.contains("nothing changes"), written.is_none(), "{call:?}: {}", ran.out);
        assert_eq!(api.fake.edits()[before..], written.into_iter().collect::<Vec<_>>(), "{call:?}");
    }
    let table = run(node, EDITOR, &["users", "list"]).await.out;
    let head = table.lines().find(|line| line.contains("created_at")).unwrap();
    assert!(head.find("user") < head.find("tier") && head.find("tier") < head.find("created_at"), "{table}");
    let rotated = run(node, EDITOR, &["keys", "rotate", "k1"]).await;
    assert!(rotated.err.contains("The old key k1 ends at once."), "{}", rotated.err);
    let rotated = run(node, EDITOR, &["keys", "rotate", "k1", "--overlap", "1h"]).await;
    assert!(rotated.err.contains("The old key k1 ends in 1h at the latest."), "{}", rotated.err);
}

#[tokio::test]
async fn the_audit_is_listed_up_to_a_limit() {
    let api = Api::new();
    let node = api.serve().await;
    let rows = |ran: &Ran| ran.json().as_array().unwrap().clone();
    let all = run(node, OWNER, &["audit", "--output", "json"]).await;
    assert_eq!(rows(&all).len(), 2, "{}", all.out);
    assert_eq!((&rows(&all)[0]["size"], &rows(&all)[1]["size"]), (&json!(50), &json!(49)));
    let one = run(node, OWNER, &["audit", "--limit", "1", "--output", "json"]).await;
    assert_eq!(rows(&one).len(), 1, "{}", one.out);
    let table = run(node, OWNER, &["audit"]).await.out;
    assert!(table.contains("actor") && !table.contains("size"), "{table}");
    assert_ne!(run(node, EDITOR, &["audit"]).await.code, 0);
}

#[tokio::test]
async fn what_is_hard_to_undo_is_asked_for_on_a_terminal() {
    let (api, folder) = (Api::new(), tempfile::tempdir().unwrap());
    let node = api.serve().await;
    let file = write(folder.path(), "rules.yaml", RULES);
    let applied = run(node, OWNER, &["rules", "apply", &file, "--yes", "--output", "json"]).await.json();
    assert_eq!(run(node, OWNER, &["rules", "rm", "api/all"]).await.code, 0);
    let backup = write(folder.path(), "backup", "a backup");
    let rollback = format!("rules rollback {}", applied["revision"]);
    let calls = [rollback.as_str(), "keys revoke k1", "cluster remove b", &format!("cluster restore {backup}")]
        .map(str::to_owned);
    for call in &calls {
        let before = (api.fake.edits().len(), api.fake.changes().len());
        let no = run_on_terminal(node, OWNER, call, "n").await;
        assert!(no.code == 1 && no.out.contains("nothing was changed"), "{call}: {}", no.out);
        assert_eq!((api.fake.edits().len(), api.fake.changes().len()), before, "{call}");
        let yes = run_on_terminal(node, OWNER, call, "y").await;
        assert!(yes.code == 0 && yes.out.contains("[y/N]"), "{call}: {}", yes.out);
        assert!(api.fake.edits().len() > before.0, "{call}");
        let unasked = run_on_terminal(node, OWNER, &format!("{call} --yes"), "n").await;
        assert!(unasked.code == 0 && !unasked.out.contains("[y/N]"), "{call}: {}", unasked.out);
    }
    assert_eq!(run(node, OWNER, &["rules", "rm", "api/all"]).await.code, 0);
    let rolled = run(node, OWNER, &calls[0].split(' ').collect::<Vec<_>>()).await;
    assert!(rolled.code == 0 && rolled.out.starts_with("+ api/all"), "{}", rolled.out);
}

#[tokio::test]
async fn errors_are_clear_and_show_no_secret() {
    let api = Api::new();
    let node = api.serve().await;
    let wrong = run(node, "planted-wrong-token", &["rules", "list"]).await;
    assert_eq!(wrong.code, 1);
    assert!(wrong.err.contains("rejects the admin token"), "{}", wrong.err);
    assert!(!(wrong.err + &wrong.out).contains("planted-wrong-token"));
    let none = run(node, "", &["rules", "list"]).await;
    assert!(none.code == 1 && none.err.contains("TIDEGATE_TOKEN"), "{}", none.err);
    let nobody = run("127.0.0.1:1".parse().unwrap(), OWNER, &["cluster", "status"]).await;
    assert!(nobody.code == 1 && nobody.err.contains("cannot be reached"), "{}", nobody.err);
    api.fake.fail(DatabaseError::UnknownOutcome);
    let unknown = run(node, EDITOR, &["users", "put", "u1"]).await;
    assert!(unknown.code == 1 && unknown.err.contains("may or may not be made"), "{}", unknown.err);
}

#[tokio::test]
async fn the_same_calls_are_there_over_grpc() {
    use proto::tidegate::admin::v1::admin_service_client::AdminServiceClient;
    use proto::tidegate::admin::v1::{GetClusterRequest, GetRulesRequest, PutRulesRequest, RemoveLimitRequest};
    use tonic::{Code, Request};

    fn with<T>(token: &str, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request
    }

    let api = Api::new();
    let node = api.serve().await;
    let mut client = AdminServiceClient::connect(format!("http://{node}")).await.unwrap();
    let nobody = client.get_rules(GetRulesRequest::default()).await.unwrap_err();
    assert_eq!(nobody.code(), Code::Unauthenticated);
    let rules = |text: &str, expected_revision| PutRulesRequest { rules: text.to_owned(), expected_revision };
    let put = client.put_rules(with(EDITOR, rules(RULES, None))).await.unwrap().into_inner();
    assert!(put.in_force);
    let book = client.get_rules(with(EDITOR, GetRulesRequest::default())).await.unwrap().into_inner();
    assert_eq!(book.revision, put.revision);
    assert!(book.rules.contains("per-user"), "{}", book.rules);
    let invalid = client.put_rules(with(EDITOR, rules("version: 2\ndomains: []", None))).await.unwrap_err();
    assert_eq!(invalid.code(), Code::InvalidArgument);
    assert!(invalid.message().contains("/version"), "{}", invalid.message());
    let stale = client.put_rules(with(EDITOR, rules(RULES, Some(1)))).await.unwrap_err();
    assert_eq!(stale.code(), Code::Aborted);
    assert!(stale.message().contains(&put.revision.to_string()), "{}", stale.message());
    let missing = RemoveLimitRequest { domain: "api".to_owned(), name: "none".to_owned(), expected_revision: None };
    assert_eq!(client.remove_limit(with(EDITOR, missing)).await.unwrap_err().code(), Code::NotFound);
    let cluster = client.get_cluster(with(EDITOR, GetClusterRequest {})).await.unwrap().into_inner();
    assert_eq!((cluster.leader.as_deref(), cluster.members[0].role.as_str()), (Some("a-1"), "leader"));
}

/// A node with a rule file shows its rules, and names the file where a change is asked for. Neither the right token nor
/// a wrong one is in its log or its metrics.
#[test]
fn a_node_with_a_rule_file_is_read_only_and_its_log_has_no_token() {
    const TOKEN: &str = "planted-right-token-5f2c9a7e1b3d4c6f8a0e";
    const WRONG: &str = "planted-wrong-token-0b1c2d3e4f5a69788796";
    let folder = tempfile::tempdir().unwrap();
    let (rules, token) = (write(folder.path(), "rules.yaml", RULES), write(folder.path(), "token", TOKEN));
    let settings = [
        ("TIDEGATE_LISTEN__ADMIN", "127.0.0.1:0"),
        ("TIDEGATE_ADMIN__TOKEN_FILE", token.as_str()),
        // `serve` ignores the token of commands.
        ("TIDEGATE_TOKEN", "planted-token-of-commands"),
    ];
    let node = Node::serve(Path::new(&rules), "memory:", &settings);
    let url = format!("http://{}", node.admin());
    let ask = |token: &str, call: &[&str]| {
        let ran = tidegate(call).args(["--addr", &url]).env("TIDEGATE_TOKEN", token).output().unwrap();
        (ran.status.code(), String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap())
    };
    let (code, listed, error) = ask(TOKEN, &["rules", "list", "--output", "json"]);
    assert_eq!(code, Some(0), "{error}");
    assert!(listed.contains("per-user"), "{listed}");
    let (code, _, error) = ask(TOKEN, &["rules", "rm", "api/all"]);
    assert!(code == Some(1) && error.contains("rules.yaml"), "{error}");
    let (code, status, error) = ask(TOKEN, &["cluster", "status"]);
    assert!(code == Some(0) && status.starts_with("no cluster, the rules come from a file"), "{status}{error}");
    let (code, _, error) = ask(WRONG, &["rules", "list"]);
    assert!(code == Some(1) && error.contains("rejects"), "{error}");
    wait_for("the wrong token in the log", || node.log().contains("wrong token").then_some(()));
    let metrics = node.get("/metrics").body;
    assert!(metrics.contains("tidegate_admin_rejected_tokens_total{reason=\"wrong_token\"} 1"), "{metrics}");
    for text in [node.log(), metrics] {
        assert!(!text.contains("planted"), "{text}");
    }
    assert_eq!(node.get("/admin/v1/rules").status, 404);
}
