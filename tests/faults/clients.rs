//! Clients that send checks throughout a drill and record each check, its answer, and the times.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::tidegate::v1::CheckRequest;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

/// The kind of a user's limit: how it counts, and what it does without the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A fixed window with `exact` and `deny`.
    Exact,
    /// A fixed window with `leased` and `deny`.
    Leased,
    /// A rolling window with `leased` and `local`.
    Local,
    /// A token bucket with `local`.
    Bucket,
    /// A fixed window with `exact` and `allow`.
    Allow,
}

pub const MODES: [Mode; 5] = [Mode::Exact, Mode::Leased, Mode::Local, Mode::Bucket, Mode::Allow];

/// The hits of every user's limit. The window has the maximum length, so that it does not end within a drill.
pub const LIMIT: usize = 60;
/// Number of users of each mode.
const USERS_PER_MODE: usize = 6;
/// The pause between two checks of a user.
const PAUSE: Duration = Duration::from_millis(60);
/// The time after which a client gives up on a check. It is far longer than a node may take.
const TIMEOUT: Duration = Duration::from_secs(10);

impl Mode {
    /// Returns the limit of this mode for the rule file.
    pub fn rule(self) -> String {
        let rest = match self {
            Self::Exact => "algorithm: fixed_window, consistency: exact, on_store_failure: deny",
            Self::Leased => "algorithm: fixed_window, consistency: leased, on_store_failure: deny",
            Self::Local => "algorithm: rolling_window, consistency: leased, on_store_failure: local",
            Self::Bucket => "algorithm: token_bucket, on_store_failure: local",
            Self::Allow => "algorithm: fixed_window, consistency: exact, on_store_failure: allow",
        };
        let name = self.name();
        format!("name: {name}, match: {{ mode: [{name}] }}, per: [user], limit: {LIMIT}, window: 400d, {rest}")
    }

    fn name(self) -> &'static str {
        match self {
            Self::Exact => "exact",
            Self::Leased => "leased",
            Self::Local => "local",
            Self::Bucket => "bucket",
            Self::Allow => "allow",
        }
    }
}

/// A user and the mode of its limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub mode: Mode,
    pub name: String,
}

/// One check and its answer. Times are in microseconds since the epoch.
#[derive(Clone, Copy, Debug)]
pub struct DrillCheck {
    /// The index of the user. Each new generation of names has its own range of indices.
    pub user: usize,
    pub sent_at: u64,
    pub answered_at: u64,
    /// `None` if no node gave an answer.
    pub answer: Option<Answer>,
    /// Number of nodes that were tried before.
    pub retries: usize,
}

impl DrillCheck {
    /// Returns the time until the answer, in milliseconds.
    pub fn wait_ms(&self) -> u64 {
        (self.answered_at - self.sent_at) / 1000
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub allowed: bool,
    pub degraded: bool,
}

#[expect(clippy::disallowed_methods, reason = "the clock of the clients")]
pub fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

type Client = RateLimitServiceClient<Channel>;

/// The users of one drill and their connections to every node.
#[derive(Clone)]
pub struct DrillClients {
    pub users: Arc<Vec<User>>,
    /// The connections to each node.
    clients: Arc<Vec<Vec<Client>>>,
    /// Number of checks so far. It selects the node and the connection of the next check.
    check_count: Arc<AtomicUsize>,
    records: Arc<Mutex<Vec<DrillCheck>>>,
    stop: Arc<AtomicBool>,
    started_at: u64,
    /// The time after which all users get new names, in microseconds.
    rename_every: Option<u64>,
}

impl DrillClients {
    /// Returns clients of the nodes at these addresses. The users' names start with `drill`.
    pub fn new(runtime: &Runtime, drill: &str, nodes: &[String], rename_every: Option<Duration>) -> Self {
        let _guard = runtime.enter();
        let user = |mode: Mode, index: usize| User { mode, name: format!("{drill}-{}-{index}", mode.name()) };
        let users = MODES.iter().flat_map(|mode| (0..USERS_PER_MODE).map(move |index| user(*mode, index))).collect();
        let client = |node: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{node}")).unwrap();
            Client::new(endpoint.connect_lazy())
        };
        // Several connections to each node, so that every core has some.
        let clients = nodes.iter().map(|node| (0..4).map(|_| client(node)).collect()).collect();
        Self {
            users: Arc::new(users),
            clients: Arc::new(clients),
            check_count: Arc::default(),
            records: Arc::default(),
            stop: Arc::default(),
            started_at: now(),
            rename_every: rename_every.map(|time| u64::try_from(time.as_micros()).unwrap()),
        }
    }

    /// Starts a task for every user that sends checks until [`Self::stop`] is called.
    pub fn start(&self, runtime: &Runtime) {
        for user in 0..self.users.len() {
            let clients = self.clone();
            runtime.spawn(async move {
                while !clients.stop.load(Ordering::Relaxed) {
                    clients.check(user).await;
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
    }

    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Uses up all limits. Every user sends checks without a pause until several checks in a row at every connection
    /// are denied.
    pub fn use_up_limits(&self, runtime: &Runtime) {
        let enough = 3 * self.clients.iter().map(Vec::len).sum::<usize>();
        let use_up = |user| {
            let clients = self.clone();
            runtime.spawn(async move {
                let mut denied = 0;
                for _ in 0..6 * LIMIT {
                    let allowed = clients.check(user).await.is_some_and(|answer| answer.allowed);
                    denied = if allowed { 0 } else { denied + 1 };
                    if denied >= enough {
                        break;
                    }
                }
            })
        };
        let tasks: Vec<_> = (0..self.users.len()).map(use_up).collect();
        runtime.block_on(async {
            for task in tasks {
                task.await.unwrap();
            }
        });
    }

    /// Returns all checks that are complete.
    pub fn records(&self) -> Vec<DrillCheck> {
        self.records.lock().unwrap().clone()
    }

    /// Returns the completed checks from this index on.
    pub fn records_from(&self, index: usize) -> Vec<DrillCheck> {
        self.records.lock().unwrap().get(index..).unwrap_or_default().to_vec()
    }

    pub fn mode(&self, user: usize) -> Mode {
        self.users[user % self.users.len()].mode
    }

    /// Sends one check. If a node gives no answer, tries the next node.
    async fn check(&self, user: usize) -> Option<Answer> {
        let number = self.check_count.fetch_add(1, Ordering::Relaxed);
        let nodes = self.clients.len();
        let sent_at = now();
        let User { mode, name } = &self.users[user];
        // A user with a new name counts as another user.
        let elapsed = sent_at - self.started_at;
        let generation = self.rename_every.map_or(0, |time| usize::try_from(elapsed / time).unwrap());
        let user = user + generation * self.users.len();
        let name = if generation > 0 { format!("{name}-{generation}") } else { name.clone() };
        let mut record = DrillCheck { user, sent_at, answered_at: sent_at, answer: None, retries: 0 };
        while record.answer.is_none() && record.retries <= nodes {
            let node = &self.clients[(number + record.retries) % nodes];
            let mut client = node[number / nodes % node.len()].clone();
            let attributes = [("mode", mode.name()), ("user", &name)].map(|(k, v)| (k.to_owned(), v.to_owned()));
            let request = CheckRequest { domain: "d".to_owned(), attributes: attributes.into(), ..Default::default() };
            if let Ok(Ok(answer)) = tokio::time::timeout(TIMEOUT, client.check(request)).await {
                let answer = answer.into_inner();
                record.answer = Some(Answer { allowed: answer.allowed, degraded: answer.degraded });
            } else {
                record.retries += 1;
            }
        }
        record.answered_at = now();
        self.records.lock().unwrap().push(record);
        record.answer
    }
}
