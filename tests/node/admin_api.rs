//! The admin API over a configuration plane whose database and cluster are in memory.

mod access;
mod operations;
mod rules;

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
use plane::{Change, Command, CommitId, KeyHash, Mark, Outcome, PlaneState, Refused, Transaction, UserRow};
use serde_json::{Value, json};
use tidegate::api::admin::metrics::AdminMetrics;
use tidegate::api::admin::{AdminState, routes, serve};
use tidegate::api::http::Peer;
use tidegate::control::admin::{AdminService, Source};
use tidegate::ports::plane::{
    Actor, AdminRole, ClusterStatus, ConfigStore, Consensus, ConsensusError, DatabaseError, Edit, List, Listed, Member,
    MemberChange, MemberRole, Page, Role,
};
use tidegate::ports::{BoxFuture, Clock, RuleSource};
use tidegate::server::balance::{ListenerBounds, acceptors};
use tidegate::server::metrics::ConnectionMetrics;
use tidegate::server::peers::PeerBound;
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

impl Fake {
    fn new() -> Arc<Self> {
        let tokens = [(EDITOR, AdminRole::Editor), (VIEWER, AdminRole::Viewer)];
        let tokens = tokens.map(|(token, role)| (KeyHash::of(token), Actor { name: role.to_string(), role }));
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

    /// Lets time pass.
    fn pass(&self, seconds: u64) {
        *self.now_us.lock().unwrap() += seconds * 1_000_000;
    }

    /// Lets every edit from now on fail; with `Unavailable`, look-ups of tokens as well.
    pub fn fail(&self, error: DatabaseError) {
        *self.failure.lock().unwrap() = Some(error);
    }

    /// Has a transaction refused.
    pub fn refuse(&self, rows: &[&str], errors: &[&str]) {
        let texts = |all: &[&str]| all.iter().map(ToString::to_string).collect();
        let refused = vec![Refused { revision: Revision(7), rows: texts(rows), errors: texts(errors) }];
        let mut next = PlaneState::clone(&self.state.borrow());
        next.apply(Command::Apply { after: next.mark(), transactions: Vec::new(), refused });
        self.state.send_replace(Arc::new(next));
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
        let transactions = vec![Transaction::new(mark, changes)];
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
        if let Some(error @ DatabaseError::Unavailable(_)) = &*self.failure.lock().unwrap() {
            return ready(Err(error.clone()));
        }
        ready(Ok(self.tokens.lock().unwrap().get(&hash).cloned()))
    }

    fn list(&self, list: List, page: Page) -> BoxFuture<'_, Result<Listed, DatabaseError>> {
        let last = |of: &dyn Fn(&Edit) -> Option<Value>| {
            let edits = self.edits.lock().unwrap();
            let rows = edits.iter().rev().find_map(|(_, edit)| of(edit)).into_iter().collect();
            ready(Ok(Listed { rows, next: None }))
        };
        match &list {
            List::Tiers { tier: Some(name) } => {
                return last(&|edit| match edit {
                    Edit::PutTier { tier, description } if tier == name => {
                        Some(json!({ "tier": tier, "description": description }))
                    }
                    _ => None,
                });
            }
            List::Users { user: Some(name) } => {
                return last(&|edit| match edit {
                    Edit::PutUser(row) if row.user == *name => Some(json!({ "user": row.user, "tier": row.tier })),
                    _ => None,
                });
            }
            _ => {}
        }
        let row = json!({ "list": format!("{list:?}"), "size": page.size, "after": page.after });
        let next = (page.after.as_deref() != Some("n")).then(|| "n".to_owned());
        ready(Ok(Listed { rows: vec![row], next }))
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
            last_seen_ms: Some(1500),
        };
        let unseen = Member { name: "b".to_owned(), role: MemberRole::Learner, last_seen_ms: None, ..member.clone() };
        ClusterStatus { leader: Some("a-1".to_owned()), members: vec![member, unseen], ..ClusterStatus::default() }
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

    fn failure(&self) -> Option<String> {
        None
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
        let checks = Arc::new(CheckMetrics::new(&registry).unwrap());
        let peers = PeerBound { most: 100, trusted: Vec::new() };
        let bounds = ListenerBounds { max_open: 100, peers, budget: 1 << 26 };
        let acceptor = acceptors(1, bounds, metrics, checks, None).pop().unwrap();
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
            gossip: None,
            owner: Some(KeyHash::of(OWNER)),
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
        self.call_from("192.0.2.7", token, call, headers, body).await
    }

    async fn call_from(
        &self,
        ip: &str,
        token: &str,
        call: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Reply {
        let (method, path) = call.split_once(' ').unwrap();
        let mut request = Request::builder().method(method).uri(format!("/admin/v1{path}"));
        if !token.is_empty() {
            request = request.header("authorization", format!("Bearer {token}"));
        }
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut routes = self.routes.clone().layer(Extension(Peer(ip.parse().unwrap())));
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
