//! Look-ups of API keys at a directory in memory. Time is virtual.

use std::collections::HashMap;
use std::sync::Mutex;

use limiter::{Revision, WallTime};
use plane::{Change, Command, CommitId, KeyRow, Mark, Owner, Transaction, UserRow};
use tokio::task::JoinSet;
use tokio::time::advance;

use super::*;
use crate::ports::plane::DatabaseError;
use crate::telemetry::registry::MetricsRegistry;

const CONFIG: IdentityConfig =
    IdentityConfig { cache: 1000, ttl: Duration::from_secs(60), lookups: 100, stale: Duration::from_secs(3600) };
const WAIT: Duration = Duration::from_millis(100);

/// The virtual time of the runtime.
struct VirtualClock(tokio::time::Instant);

impl Clock for VirtualClock {
    fn now(&self) -> NodeTime {
        NodeTime(u64::try_from(self.0.elapsed().as_micros()).unwrap())
    }

    fn wall(&self) -> WallTime {
        WallTime(self.now().0)
    }
}

/// What a server knows. Look-ups wait while it is held.
struct Directory {
    keys: Mutex<HashMap<KeyHash, KeyRow>>,
    revision: Mutex<Revision>,
    away: Mutex<bool>,
    held: watch::Sender<bool>,
    asked: Mutex<Vec<KeyHash>>,
}

impl KeyDirectory for Directory {
    fn look_up(&self, hash: KeyHash, _: Arc<PlaneState>) -> BoxFuture<'_, Result<CachedKey, DatabaseError>> {
        self.asked.lock().unwrap().push(hash);
        let user = |key: KeyRow| (key.clone(), UserRow { user: key.user, tier: None });
        let found = self.keys.lock().unwrap().get(&hash).cloned().map(user);
        let key = CachedKey { revision: *self.revision.lock().unwrap(), found };
        let away = *self.away.lock().unwrap();
        let mut held = self.held.subscribe();
        Box::pin(async move {
            held.wait_for(|held| !held).await.unwrap();
            if away { Err(DatabaseError::Unavailable("away".to_owned())) } else { Ok(key) }
        })
    }
}

/// The API keys of a node, its server, and the changes that it has applied.
struct World {
    keys: Arc<ApiKeys>,
    directory: Arc<Directory>,
    state: watch::Sender<Arc<PlaneState>>,
    services: JoinSet<Result<(), Fatal>>,
    shutdown: watch::Sender<bool>,
}

impl World {
    #[expect(clippy::disallowed_methods, reason = "the time of these tests is virtual")]
    fn new() -> Self {
        let (state, states) = watch::channel(Arc::new(PlaneState::default()));
        let directory = Arc::new(Directory {
            keys: Mutex::default(),
            revision: Mutex::new(Revision(1)),
            away: Mutex::new(false),
            held: watch::channel(false).0,
            asked: Mutex::default(),
        });
        let clock = Arc::new(VirtualClock(tokio::time::Instant::now()));
        let metrics = IdentityMetrics::new(&MetricsRegistry::new("test", "test").unwrap()).unwrap();
        let server = Arc::clone(&directory) as Arc<dyn KeyDirectory>;
        let keys = Arc::new(ApiKeys::new(CONFIG, clock, states, server, metrics));
        Self { keys, directory, state, services: JoinSet::new(), shutdown: watch::channel(false).0 }
    }

    fn start() -> Self {
        let mut world = Self::new();
        let (keys, shutdown) = (Arc::clone(&world.keys), Shutdown(world.shutdown.subscribe()));
        world.services.spawn(async move { keys.run(shutdown).await });
        world
    }

    fn insert(&self, key: &str) {
        self.directory.keys.lock().unwrap().insert(KeyHash::of(key), row(key));
    }

    async fn ask(&self, key: &str) -> KeyAnswer {
        match self.keys.identify(key, WAIT) {
            Identified::Now(answer) => answer,
            Identified::Later { looked_up, .. } => looked_up.await,
        }
    }

    /// The answer about a key, if it needs no look-up.
    fn known(&self, key: &str) -> Option<KeyAnswer> {
        match self.keys.identify(key, WAIT) {
            Identified::Now(answer) => Some(answer),
            Identified::Later { .. } => None,
        }
    }

    /// How many times the server was asked for a key.
    fn asked(&self, key: &str) -> usize {
        self.directory.asked.lock().unwrap().iter().filter(|hash| **hash == KeyHash::of(key)).count()
    }

    fn apply(&self, revision: u64, changes: Vec<Change>) {
        let mark = Mark { revision: Revision(revision), id: CommitId(revision.into()) };
        self.state.send_modify(|state| {
            let state = Arc::make_mut(state);
            let transactions = vec![Transaction::new(mark, changes)];
            state.apply(Command::Apply { after: state.mark(), transactions, refused: Vec::new() });
            assert_eq!(state.mark(), mark);
        });
    }
}

fn row(key: &str) -> KeyRow {
    let (key_id, user) = (format!("id of {key}"), "u1".to_owned());
    KeyRow { hash: KeyHash::of(key), key_id, user, tier: None, expires_at_ms: None, revoked_at_ms: None }
}

fn valid(key: &str) -> KeyAnswer {
    KeyAnswer::Valid(Owner { user: "u1".to_owned(), tier: None, key_id: format!("id of {key}") })
}

#[tokio::test(start_paused = true)]
async fn one_look_up_serves_many_checks_and_outlives_them() {
    let world = World::start();
    world.insert("a");
    world.directory.held.send_replace(true);
    let answers = futures_util::future::join_all((0..50).map(|_| world.ask("a"))).await;
    assert!(answers.iter().all(|answer| *answer == KeyAnswer::Unavailable), "no check waits longer than it may");
    let more = futures_util::future::join_all((0..50).map(|_| world.ask("a")));
    let release = async { world.directory.held.send_replace(false) };
    let (answers, _) = tokio::join!(more, release);
    assert!(answers.iter().all(|answer| *answer == valid("a")));
    assert_eq!((world.known("a"), world.asked("a")), (Some(valid("a")), 1));
}

#[tokio::test(start_paused = true)]
async fn known_keys_count_while_the_server_is_away_and_it_is_asked_now_and_then() {
    let world = World::start();
    world.insert("a");
    assert_eq!(world.ask("a").await, valid("a"));
    *world.directory.away.lock().unwrap() = true;
    advance(CONFIG.ttl).await;
    assert_eq!((world.ask("a").await, world.asked("a")), (valid("a"), 2));
    assert_eq!((world.ask("b").await, world.asked("b")), (KeyAnswer::Unavailable, 0), "look-ups pause");
    assert_eq!((world.ask("a").await, world.asked("a")), (valid("a"), 2));
    advance(Duration::from_millis(500)).await;
    assert_eq!((world.ask("b").await, world.asked("b")), (KeyAnswer::Unavailable, 1));
    advance(CONFIG.stale - CONFIG.ttl).await;
    assert_eq!(world.ask("a").await, KeyAnswer::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn a_flood_of_unknown_keys_takes_neither_the_place_of_known_keys_nor_more_look_ups_than_allowed() {
    let world = World::start();
    let known: Vec<String> = (0..50).map(|n| format!("known {n}")).collect();
    for key in &known {
        world.insert(key);
        assert_eq!(world.ask(key).await, valid(key));
    }
    for second in 0..30 {
        advance(Duration::from_secs(1)).await;
        let before = world.directory.asked.lock().unwrap().len();
        for n in 0..200 {
            world.ask(&format!("random {second} {n}")).await;
        }
        assert_eq!(world.directory.asked.lock().unwrap().len() - before, 100);
    }
    for key in &known {
        assert_eq!(world.known(key), Some(valid(key)));
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_answers_without_a_look_up() {
    let world = World::new();
    for n in 0..MAX_QUEUED {
        assert_eq!(world.known(&format!("random {n}")), None);
    }
    assert_eq!(world.known("a"), Some(KeyAnswer::Unavailable));
}

#[tokio::test(start_paused = true)]
async fn a_revocation_that_is_applied_during_a_look_up_counts() {
    let world = World::start();
    world.insert("a");
    world.directory.held.send_replace(true);
    let revoke = async {
        while world.asked("a") == 0 {
            tokio::task::yield_now().await;
        }
        let revoked = KeyRow { revoked_at_ms: Some(1), ..row("a") };
        world.apply(2, vec![Change::PutKey(revoked)]);
        world.directory.held.send_replace(false);
    };
    let (answer, ()) = tokio::join!(world.ask("a"), revoke);
    assert_eq!((answer, world.known("a")), (KeyAnswer::Revoked, Some(KeyAnswer::Revoked)));
}

#[tokio::test(start_paused = true)]
async fn a_key_that_did_not_exist_is_recognised_once_its_creation_is_applied() {
    let world = World::start();
    assert_eq!(world.ask("a").await, KeyAnswer::Unknown);
    assert_eq!((world.known("a"), world.asked("a")), (Some(KeyAnswer::Unknown), 1), "the miss is cached");
    let user = UserRow { user: "u1".to_owned(), tier: None };
    world.apply(2, vec![Change::PutUser(user), Change::PutKey(row("a"))]);
    assert_eq!(world.known("a"), Some(valid("a")));
}

#[tokio::test(start_paused = true)]
async fn a_server_at_an_older_revision_replaces_what_is_too_old_to_count_only() {
    let world = World::start();
    world.insert("a");
    *world.directory.revision.lock().unwrap() = Revision(9);
    assert_eq!(world.ask("a").await, valid("a"));
    *world.directory.revision.lock().unwrap() = Revision(0);
    advance(CONFIG.stale).await;
    assert_eq!(world.ask("a").await, valid("a"));
    assert_eq!((world.known("a"), world.asked("a")), (Some(valid("a")), 2));
}
