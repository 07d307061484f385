//! The admin API over a configuration plane whose database and cluster are in memory.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use axum::{Extension, Router};
use http_body_util::BodyExt;
use limiter::rules::{RuleBook, Rules};
use limiter::{NodeTime, Revision, WallTime};
use plane::{Change, Command, CommitId, KeyHash, Mark, Outcome, PlaneState, Transaction, UserRow};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tidegate::api::admin::metrics::AdminMetrics;
use tidegate::api::admin::{AdminState, routes, serve};
use tidegate::api::http::Peer;
use tidegate::control::admin::{AdminService, Source};
use tidegate::ports::plane::{
    Actor, AdminRole, ClusterStatus, ConfigStore, Consensus, ConsensusError, DatabaseError, Edit, List, Listed, Member,
    MemberChange, MemberRole, Page, Role,
};
use tidegate::ports::{BoxFuture, Clock, RuleSource};
use tidegate::server::balance::acceptors;
use tidegate::server::body_budget::BodyBudget;
use tidegate::server::metrics::ConnectionMetrics;
use tidegate::telemetry::checks::CheckMetrics;
use tidegate::telemetry::registry::MetricsRegistry;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tower_service::Service as _;

pub const OWNER: &str = "tg_owner_planted_3b1f";
pub const EDITOR: &str = "tg_editor_planted_9c44";
const VIEWER: &str = "tg_viewer_planted_77aa";

fn ready<'a, T: Send + 'a>(value: T) -> BoxFuture<'a, T> {
    Box::pin(std::future::ready(value))
}

/// A database and a cluster of one node.
pub struct Fake {
    state: watch::Sender<Arc<PlaneState>>,
    books: watch::Sender<Arc<RuleBook>>,
    history: Mutex<BTreeMap<u64, Rules>>,
    edits: Mutex<Vec<(String, Edit)>>,
    tokens: Mutex<BTreeMap<KeyHash, Actor>>,
    changes: Mutex<Vec<MemberChange>>,
    failure: Mutex<Option<DatabaseError>>,
    /// An edit of somebody else that comes first.
    rival: Mutex<Option<Edit>>,
    has_quorum: AtomicBool,
    now_us: Mutex<u64>,
}

fn hash(token: &str) -> KeyHash {
    KeyHash(Sha256::digest(token).into())
}

impl Fake {
    fn new() -> Arc<Self> {
        let tokens = [(EDITOR, AdminRole::Editor), (VIEWER, AdminRole::Viewer)];
        let tokens = tokens.map(|(token, role)| (hash(token), Actor { name: role.to_string(), role }));
        Arc::new(Self {
            state: watch::Sender::new(Arc::default()),
            books: watch::Sender::new(Arc::new(RuleBook::empty())),
            history: Mutex::default(),
            edits: Mutex::default(),
            tokens: Mutex::new(tokens.into()),
            changes: Mutex::default(),
            failure: Mutex::default(),
            rival: Mutex::default(),
            has_quorum: AtomicBool::new(true),
            now_us: Mutex::new(1_800_000_000_000_000),
        })
    }

    /// The edits so far.
    pub fn edits(&self) -> Vec<Edit> {
        self.edits.lock().unwrap().iter().map(|(_, edit)| edit.clone()).collect()
    }

    /// The changes of members so far.
    pub fn changes(&self) -> Vec<MemberChange> {
        self.changes.lock().unwrap().clone()
    }

    /// Lets every edit from now on fail.
    pub fn fail(&self, error: DatabaseError) {
        *self.failure.lock().unwrap() = Some(error);
    }

    fn commit(&self, edit: Edit) -> Mark {
        let state = PlaneState::clone(&self.state.borrow());
        let revision = state.mark().revision.next(*self.now_us.lock().unwrap() / 1000);
        let mark = Mark { revision, id: CommitId(u128::from(revision.0)) };
        let changes = match edit {
            Edit::ReplaceRules(rules) => {
                let rows = rules.domains.iter().flat_map(|domain| {
                    let terms = plane::DomainTerms {
                        charge: domain.charge,
                        default: domain.default,
                        identity: domain.identity,
                        on_identity_failure: domain.on_identity_failure,
                    };
                    let put = Change::PutDomain { domain: domain.domain.clone(), terms };
                    let limits = domain.limits.iter().zip(0..).map(|(limit, position)| Change::PutLimit {
                        domain: domain.domain.clone(),
                        position,
                        limit: Box::new(limit.clone()),
                    });
                    std::iter::once(put).chain(limits).collect::<Vec<_>>()
                });
                state.changes_to(&rows.collect::<Vec<_>>())
            }
            Edit::PutLimit { domain, limit } => vec![Change::PutLimit { domain, position: 1000, limit }],
            Edit::RemoveLimit { domain, name } => vec![Change::RemoveLimit { domain, name }],
            Edit::PutUser(user) => vec![Change::PutUser(user)],
            Edit::CreateKey { key, .. } => vec![Change::PutKey(key)],
            Edit::PutSettings(all) => all.into_iter().map(|(name, value)| Change::PutSetting { name, value }).collect(),
            _ => Vec::new(),
        };
        let mut next = state.clone();
        let transactions = vec![Transaction { mark, changes }];
        next.apply(Command::Apply { after: state.mark(), transactions, refused: Vec::new() });
        let book = RuleBook::compile(Arc::new(next.rules()), next.rules_revision()).unwrap();
        self.history.lock().unwrap().insert(book.revision.0, Rules::clone(book.rules()));
        self.state.send_replace(Arc::new(next));
        self.books.send_replace(Arc::new(book));
        mark
    }
}

impl ConfigStore for Fake {
    fn edit(
        &self,
        actor: &Actor,
        edit: Edit,
        expected: Option<Revision>,
    ) -> BoxFuture<'_, Result<Mark, DatabaseError>> {
        if let Some(rival) = self.rival.lock().unwrap().take() {
            self.commit(rival);
        }
        if let Some(failure) = &*self.failure.lock().unwrap() {
            return ready(Err(failure.clone()));
        }
        let current = self.state.borrow().database_rules_revision();
        if expected.is_some_and(|expected| expected != current) {
            return ready(Err(DatabaseError::Stale { current }));
        }
        self.edits.lock().unwrap().push((actor.name.clone(), edit.clone()));
        ready(Ok(self.commit(edit)))
    }

    fn token(&self, hash: KeyHash) -> BoxFuture<'_, Result<Option<Actor>, DatabaseError>> {
        ready(Ok(self.tokens.lock().unwrap().get(&hash).cloned()))
    }

    fn list(&self, list: List, page: Page) -> BoxFuture<'_, Result<Listed, DatabaseError>> {
        let row = json!({ "list": format!("{list:?}"), "size": page.size, "after": page.after });
        ready(Ok(Listed { rows: vec![row], next: Some("n".to_owned()) }))
    }

    fn rules_at(&self, revision: Revision) -> BoxFuture<'_, Result<Option<Rules>, DatabaseError>> {
        ready(Ok(self.history.lock().unwrap().get(&revision.0).cloned()))
    }
}

impl Consensus for Fake {
    fn state(&self) -> watch::Receiver<Arc<PlaneState>> {
        self.state.subscribe()
    }

    fn role(&self) -> watch::Receiver<Role> {
        watch::Sender::new(Role::Leader { term: 1 }).subscribe()
    }

    fn propose(&self, _: Command) -> BoxFuture<'_, Result<Outcome, ConsensusError>> {
        ready(Err(ConsensusError::Stopping))
    }

    fn status(&self) -> ClusterStatus {
        let member = Member {
            name: "a-1".to_owned(),
            region: "a".to_owned(),
            role: MemberRole::Leader,
            address: "127.0.0.1:8082".to_owned(),
            log_index: Some(1),
            revision: Some(Revision(7)),
            last_seen_ms: None,
        };
        ClusterStatus { leader: Some("a-1".to_owned()), members: vec![member], ..ClusterStatus::default() }
    }

    fn administer(&self, change: MemberChange) -> BoxFuture<'_, Result<(), ConsensusError>> {
        self.changes.lock().unwrap().push(change);
        ready(Ok(()))
    }

    fn backup(&self) -> Result<Vec<u8>, String> {
        Ok(b"a backup".to_vec())
    }

    fn last_contact(&self) -> Option<Duration> {
        self.has_quorum.load(Ordering::Relaxed).then_some(Duration::ZERO)
    }
}

impl RuleSource for Fake {
    fn follow(&self) -> watch::Receiver<Arc<RuleBook>> {
        self.books.subscribe()
    }
}

impl Clock for Fake {
    fn now(&self) -> NodeTime {
        NodeTime(*self.now_us.lock().unwrap())
    }

    fn wall(&self) -> WallTime {
        WallTime(*self.now_us.lock().unwrap())
    }
}

pub struct Api {
    pub fake: Arc<Fake>,
    routes: Router,
    state: AdminState,
}

struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
    text: String,
}

impl Api {
    /// Serves the API on a free port of loopback. It ends with the runtime of the test.
    pub async fn serve(&self) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let registry = MetricsRegistry::new("1", "test").unwrap();
        let metrics = ConnectionMetrics::new(&registry).unwrap().listener("admin");
        let budget = BodyBudget::new(Arc::new(CheckMetrics::new(&registry).unwrap()));
        let acceptor = acceptors(1, 100, metrics, budget, None).pop().unwrap();
        #[expect(clippy::disallowed_methods, reason = "it ends with the runtime of the test")]
        tokio::spawn(serve(listener, acceptor, self.state.clone(), std::future::pending::<()>()));
        address
    }

    pub fn new() -> Self {
        let fake = Fake::new();
        let (consensus, store) =
            (Arc::clone(&fake) as Arc<dyn Consensus>, Some(Arc::clone(&fake) as Arc<dyn ConfigStore>));
        Self::with(fake, Source::Cluster { consensus, store })
    }

    fn with(fake: Arc<Fake>, source: Source) -> Self {
        let clock = Arc::clone(&fake) as Arc<dyn Clock>;
        let service = AdminService {
            rules: Arc::clone(&fake) as Arc<dyn RuleSource>,
            source,
            owner: Some(hash(OWNER)),
            clock: Arc::clone(&clock),
            random: tidegate::host::clock::random,
        };
        let metrics = AdminMetrics::new(&MetricsRegistry::new("1", "test").unwrap()).unwrap();
        let state = AdminState::new(Arc::new(service), clock, metrics).unwrap();
        Self { fake, routes: routes(state.clone()), state }
    }

    async fn call(&self, token: &str, call: &str, body: impl Into<Bytes>) -> Reply {
        self.call_with(token, call, &[], body).await
    }

    async fn call_with(&self, token: &str, call: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Reply {
        let (method, path) = call.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(format!("/admin/v1{path}"));
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut routes = self.routes.clone().layer(Extension(Peer("192.0.2.7".parse().unwrap())));
        let answer = routes.call(request.body(Body::from(body.into())).unwrap()).await.unwrap();
        let (parts, body) = answer.into_parts();
        let text = String::from_utf8(body.collect().await.unwrap().to_bytes().into()).unwrap();
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        Reply { status: parts.status, headers: parts.headers, body, text }
    }

    async fn put_rules(&self) -> String {
        let reply = self.call(EDITOR, "PUT /rules", RULES).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert_eq!(reply.body["in_force"], true);
        reply.headers["etag"].to_str().unwrap().to_owned()
    }
}

pub const RULES: &str = "
version: 1
domains:
  - domain: api
    limits:
      - { name: per-user, per: [user], limit: 10, window: 1m }
      - { name: all, per: [], limit: 1000, window: 90s }
";

fn pointers(reply: &Reply) -> Vec<&str> {
    reply.body["errors"].as_array().unwrap().iter().map(|error| error["pointer"].as_str().unwrap()).collect()
}

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
    assert_eq!((actor.as_str(), row.hash, row.key_id.as_str()), ("editor", hash(key), id));
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
    let source = include_str!("../../src/api/admin/mod.rs");
    let routed: Vec<&str> = source.split("\"/admin/v1/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
    assert!(routed.len() > 20, "{routed:?}");
    for path in &routed {
        assert!(paths.contains_key(&format!("/admin/v1/{path}")), "{path}");
    }
    assert_eq!(paths.len(), routed.len());
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let call = format!("{} {}", method.to_uppercase(), path.strip_prefix("/admin/v1").unwrap());
            let open = path.ends_with("openapi.json");
            assert_eq!(api.call("", &call.replace(['{', '}'], "x"), "").await.status, if open { 200 } else { 401 });
        }
    }
    // Each call of the code is there: as many handlers as operations.
    let handlers: usize = [
        include_str!("../../src/api/admin/rules.rs"),
        include_str!("../../src/api/admin/directory.rs"),
        include_str!("../../src/api/admin/cluster.rs"),
        include_str!("../../src/api/admin/openapi.rs"),
    ]
    .map(|code| code.matches("pub async fn").count())
    .iter()
    .sum();
    let operations: usize = paths.values().map(|methods| methods.as_object().unwrap().len()).sum();
    assert_eq!(handlers, operations);
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
