//! A crowd of clients that keeps asking while things go wrong, and notes what it asked and was answered, and when.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::tidegate::v1::CheckRequest;
use proto::tidegate::v1::rate_limit_service_client::RateLimitServiceClient;
use tokio::runtime::Runtime;
use tonic::transport::{Channel, Endpoint};

/// What a user's limit does without the store, and how it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// `exact`, `deny`
    Exact,
    /// `leased`, `deny`
    Leased,
    /// `leased`, `local`
    Local,
    /// `token_bucket`, `local`
    Bucket,
    /// `exact`, `allow`
    Allow,
}

pub const MODES: [Mode; 5] = [Mode::Exact, Mode::Leased, Mode::Local, Mode::Bucket, Mode::Allow];

/// The hits of every user's limit. Its window is the longest there is, so that it does not end within a drill.
pub const LIMIT: usize = 60;
/// Users of each mode.
const USERS: usize = 6;
/// How often each user asks.
const PAUSE: Duration = Duration::from_millis(60);
/// A client that has no answer by then gives up: far longer than a node may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Mode {
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

/// One of the users.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub mode: Mode,
    pub name: String,
}

/// One check, with what became of it; instants in microseconds since the epoch.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// By its place in the crowd; those with new names come after all with old ones.
    pub user: usize,
    pub asked: u64,
    pub answered: u64,
    /// `None`: no node decided.
    pub answer: Option<Answer>,
    /// Nodes that were asked before.
    pub retries: usize,
}

impl Asked {
    /// In milliseconds.
    pub fn waited(&self) -> u64 {
        (self.answered - self.asked) / 1000
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Answer {
    pub allowed: bool,
    pub degraded: bool,
}

#[expect(clippy::disallowed_methods, reason = "a client's own clock")]
pub fn now() -> u64 {
    u64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_micros()).unwrap()
}

type Client = RateLimitServiceClient<Channel>;

/// Users of one drill, and their connections to every node.
pub struct Crowd {
    pub users: Arc<Vec<User>>,
    /// By node.
    clients: Arc<Vec<Vec<Client>>>,
    turn: Arc<AtomicUsize>,
    noted: Arc<Mutex<Vec<Asked>>>,
    stop: Arc<AtomicBool>,
    begun: u64,
    /// How often users have new names, in microseconds.
    renewed: Option<u64>,
}

impl Crowd {
    /// Users with names of their own, who ask the nodes at these addresses.
    pub fn new(runtime: &Runtime, drill: &str, nodes: &[String], renewed: Option<Duration>) -> Self {
        let _within = runtime.enter();
        let name = |mode: Mode, at: usize| User { mode, name: format!("{drill}-{}-{at}", mode.name()) };
        let users = MODES.iter().flat_map(|mode| (0..USERS).map(move |at| name(*mode, at))).collect();
        let client = |node: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{node}")).unwrap();
            Client::new(endpoint.connect_lazy())
        };
        // Several connections, so that every core of a node has some.
        let clients = nodes.iter().map(|node| (0..4).map(|_| client(node)).collect()).collect();
        Self {
            users: Arc::new(users),
            clients: Arc::new(clients),
            turn: Arc::default(),
            noted: Arc::default(),
            stop: Arc::default(),
            begun: now(),
            renewed: renewed.map(|renewed| u64::try_from(renewed.as_micros()).unwrap()),
        }
    }

    /// Every user asks again and again, until the end.
    pub fn begin(&self, runtime: &Runtime) {
        for user in 0..self.users.len() {
            let one = self.another();
            runtime.spawn(async move {
                while !one.stop.load(Ordering::Relaxed) {
                    one.ask(user).await;
                    tokio::time::sleep(PAUSE).await;
                }
            });
        }
    }

    pub fn end(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Every user asks as fast as it is answered, until every node has refused it several times.
    pub fn drain(&self, runtime: &Runtime) {
        let enough = 3 * self.clients.iter().map(Vec::len).sum::<usize>();
        let drain = |user| {
            let one = self.another();
            runtime.spawn(async move {
                let mut refused = 0;
                for _ in 0..6 * LIMIT {
                    let passed = one.ask(user).await.is_some_and(|answer| answer.allowed);
                    refused = if passed { 0 } else { refused + 1 };
                    if refused >= enough {
                        break;
                    }
                }
            })
        };
        let all: Vec<_> = (0..self.users.len()).map(drain).collect();
        runtime.block_on(async {
            for task in all {
                task.await.unwrap();
            }
        });
    }

    pub fn noted(&self) -> Vec<Asked> {
        self.noted.lock().unwrap().clone()
    }

    /// What is noted since then.
    pub fn noted_since(&self, at: usize) -> Vec<Asked> {
        self.noted.lock().unwrap().get(at..).unwrap_or_default().to_vec()
    }

    pub fn mode(&self, user: usize) -> Mode {
        self.users[user % self.users.len()].mode
    }

    fn another(&self) -> Self {
        Self {
            users: Arc::clone(&self.users),
            clients: Arc::clone(&self.clients),
            turn: Arc::clone(&self.turn),
            noted: Arc::clone(&self.noted),
            stop: Arc::clone(&self.stop),
            begun: self.begun,
            renewed: self.renewed,
        }
    }

    /// One check, at the next node where one cannot be reached.
    async fn ask(&self, user: usize) -> Option<Answer> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let nodes = self.clients.len();
        let asked = now();
        let User { mode, name } = &self.users[user];
        // With a new name a user is another one.
        let generation = self.renewed.map_or(0, |renewed| usize::try_from((asked - self.begun) / renewed).unwrap());
        let user = user + generation * self.users.len();
        let name = if generation > 0 { format!("{name}-{generation}") } else { name.clone() };
        let mut noted = Asked { user, asked, answered: asked, answer: None, retries: 0 };
        while noted.answer.is_none() && noted.retries <= nodes {
            let node = &self.clients[(turn + noted.retries) % nodes];
            let mut client = node[turn / nodes % node.len()].clone();
            let attributes = [("mode", mode.name()), ("user", &name)].map(|(k, v)| (k.to_owned(), v.to_owned()));
            let request = CheckRequest { domain: "d".to_owned(), attributes: attributes.into(), ..Default::default() };
            if let Ok(Ok(answer)) = tokio::time::timeout(PATIENCE, client.check(request)).await {
                let answer = answer.into_inner();
                noted.answer = Some(Answer { allowed: answer.allowed, degraded: answer.degraded });
            } else {
                noted.retries += 1;
            }
        }
        noted.answered = now();
        self.noted.lock().unwrap().push(noted);
        noted.answer
    }
}
