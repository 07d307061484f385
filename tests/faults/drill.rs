//! A drill: a crowd asks, something goes wrong, it is put right, and what the crowd saw is held against the promises.

use std::path::PathBuf;
use std::time::Duration;

use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::crowd::{Asked, Crowd, LIMIT, MODES, Mode, now};
use crate::node::{Node, wait_for};
use crate::servers::{ask, free_ports};
use crate::table::{Row, Table};

/// What a check may take, `store.deadline` included, on a machine that is shared: a check that waits for anything else takes
/// far longer.
const ANSWERED_WITHIN_MS: u64 = 3000;
/// So long nothing may have been out of the ordinary for service to be normal.
const CALM: Duration = Duration::from_secs(1);
/// How long it may take until it is.
const NORMAL_WITHIN_MS: u64 = 30_000;

/// Cores of a node.
pub const CORES: usize = 2;
/// Nodes of a region.
pub const NODES: usize = 2;

/// A fault, and what it may cost.
pub struct Fault<'a> {
    pub name: &'a str,
    /// Whether the store may forget what it charged before the fault ends.
    pub forgets: bool,
    /// Whether the region is to find a way around it: the time to normal service begins with the fault, not with its end.
    pub by_itself: bool,
    /// The one primary that it hits, if it is one.
    pub sick: Option<u16>,
    pub begin: Box<dyn FnOnce(&mut Region) + 'a>,
    pub lasts: Duration,
    pub end: Box<dyn FnOnce(&mut Region) + 'a>,
}

impl<'a> Fault<'a> {
    /// A fault that lasts two seconds and makes nothing forgotten.
    pub fn new(name: &'a str, begin: impl FnOnce(&mut Region) + 'a, end: impl FnOnce(&mut Region) + 'a) -> Self {
        let (begin, end) = (Box::new(begin), Box::new(end));
        Self { name, forgets: false, by_itself: false, sick: None, begin, lasts: Duration::from_secs(2), end }
    }

    pub fn forgets(self) -> Self {
        Self { forgets: true, ..self }
    }

    pub fn overcome(self) -> Self {
        Self { by_itself: true, ..self }
    }

    pub fn at(self, sick: u16) -> Self {
        Self { sick: Some(sick), ..self }
    }

    pub fn lasts(self, lasts: Duration) -> Self {
        Self { lasts, ..self }
    }
}

/// The nodes of a region; they live through all drills.
pub struct Region {
    pub nodes: Vec<Node>,
    ports: u16,
    rules: PathBuf,
    url: String,
    settings: Vec<(String, String)>,
    rows: Table,
    runtime: Runtime,
    _folder: TempDir,
}

impl Region {
    /// Nodes whose counters are in the Redis at `url`.
    pub fn start(url: &str, settings: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rules = folder.path().join("rules.yaml");
        let limits: String = MODES.iter().map(|mode| format!("      - {{ {} }}\n", mode.rule())).collect();
        std::fs::write(&rules, format!("version: 1\ndomains:\n  - domain: d\n    limits:\n{limits}")).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let mut region = Self {
            nodes: Vec::new(),
            ports: free_ports(2 * NODES as u16),
            rules,
            url: url.to_owned(),
            settings: settings.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
            rows: Table(Vec::new()),
            runtime,
            _folder: folder,
        };
        region.nodes = (0..NODES).map(|at| region.node(at)).collect();
        for at in 0..NODES {
            region.await_node(at);
        }
        region
    }

    /// Starts the node of this number, and waits until it is ready.
    pub fn node(&self, at: usize) -> Node {
        let port = |face: usize| self.ports + u16::try_from(2 * at + face).unwrap();
        self.node_at(&format!("n{at}"), [port(0), port(1)])
    }

    /// Starts a node that listens at these ports, for HTTP and gRPC.
    pub fn node_at(&self, name: &str, ports: [u16; 2]) -> Node {
        let [http, grpc] = ports.map(|port| format!("127.0.0.1:{port}"));
        let (cores, holders) = (CORES.to_string(), (CORES * NODES).to_string());
        let mut all = vec![
            ("TIDEGATE_NODE", name),
            ("TIDEGATE_WORKERS", &cores),
            ("TIDEGATE_STORE__LEASE", "200ms"),
            ("TIDEGATE_STORE__MIN_HOLDERS", &holders),
            ("TIDEGATE_LIMITS__DRAIN", "3s"),
            ("TIDEGATE_LISTEN__HTTP", &http),
            ("TIDEGATE_LISTEN__GRPC", &grpc),
        ];
        all.extend(self.settings.iter().map(|(k, v)| (k.as_str(), v.as_str())));
        Node::serve(&self.rules, &self.url, &all)
    }

    /// Waits until it knows the others and reaches the store.
    pub fn await_node(&self, at: usize) {
        let (node, holders) = (&self.nodes[at], (CORES * NODES) as f64);
        wait_for("nodes that know each other", || (node.metric("tidegate_holders ") >= holders).then_some(()));
        wait_for("a store that is reached", || (node.get("/ready").json()["store"] == "ok").then_some(()));
    }

    /// Lets `fault` happen under load, and holds what clients saw against the promises.
    pub fn drill(&mut self, fault: Fault<'_>) {
        let Fault { name, forgets, by_itself, sick, begin, lasts, end } = fault;
        let addresses: Vec<String> = self.nodes.iter().map(|node| node.grpc.clone()).collect();
        let crowd = Crowd::new(&self.runtime, &format!("r{}", self.rows.0.len()), &addresses);
        crowd.begin(&self.runtime);
        pause(CALM);
        let elsewhere = sick.map(|sick| self.elsewhere(&crowd, sick));
        let begun = now();
        begin(self);
        pause(lasts);
        end(self);
        let ended = now();
        let since = if by_itself { begun } else { ended };
        let last_odd = || crowd.noted().iter().filter(|a| odd(a)).map(|a| a.answered).max().unwrap_or(0).max(since);
        wait_for("normal service", || (now() - last_odd().max(ended) > micros(CALM)).then_some(()));
        let normal = (last_odd() - since) / 1000;
        crowd.end();
        crowd.drain(&self.runtime);
        // What cores still held goes back within a lease.
        pause(Duration::from_millis(500));
        crowd.drain(&self.runtime);

        let noted = crowd.noted();
        let meanwhile = |asked: &&Asked| asked.answered >= begun && asked.asked <= ended;
        let count = |asked: &mut dyn Iterator<Item = &Asked>| asked.count();
        let during = count(&mut noted.iter().filter(meanwhile)).max(1);
        let of = |user: usize| noted.iter().filter(move |a| a.user == user);
        let promised = |user: usize| {
            let mode = crowd.users[user].mode;
            let before = of(user).filter(|a| a.asked <= ended && allowed(a)).count();
            // One further limit where nodes decided by themselves, and they say where they did.
            let alone = matches!(mode, Mode::Local | Mode::Bucket) && of(user).any(odd);
            let limits = if alone { 2 } else { 1 };
            limits * LIMIT + if forgets { before } else { 0 }
        };
        let admitted = |user: usize| {
            // With `allow` whatever the store did not decide passes.
            let counts = |a: &&Asked| allowed(a) && (crowd.users[user].mode != Mode::Allow || !odd(a));
            of(user).filter(counts).count()
        };
        let all = 0..crowd.users.len();
        let strict: Vec<usize> =
            all.clone().filter(|user| matches!(crowd.users[*user].mode, Mode::Exact | Mode::Leased)).collect();
        let share = |part: usize, of: usize| part as f64 / of.max(1) as f64;
        let bystanders: Option<Vec<Asked>> =
            elsewhere.map(|users| noted.iter().filter(|a| users.contains(&a.user)).copied().collect());
        let row = Row {
            fault: name.to_owned(),
            checks: noted.len(),
            longest: noted.iter().map(|a| (a.answered - a.asked) / 1000).max().unwrap_or(0),
            failed: noted.iter().filter(|a| a.answer.is_none()).count(),
            retried: noted.iter().filter(|a| a.answer.is_some() && a.retries > 0).count(),
            degraded: 100.0 * share(count(&mut noted.iter().filter(meanwhile).filter(|a| odd(a))), during),
            worst: all.map(|user| share(admitted(user), promised(user))).fold(0.0, f64::max),
            used: share(strict.iter().map(|user| admitted(*user)).sum(), strict.len() * LIMIT),
            normal,
            others: bystanders.as_ref().map(|asked| {
                let (before, during): (Vec<Asked>, Vec<Asked>) =
                    asked.iter().filter(|a| a.asked <= ended).partition(|a| a.answered < begun);
                (slow(&before), slow(&during))
            }),
        };
        println!("{row:?}");
        assert_eq!(row.failed, 0, "{name}: every check is answered");
        assert!(row.longest < ANSWERED_WITHIN_MS, "{name}: a check waited {} ms", row.longest);
        assert!(row.worst <= 1.0, "{name}: a user was admitted more than was promised");
        assert!(row.normal < NORMAL_WITHIN_MS, "{name}: {} ms to normal service", row.normal);
        if let Some(asked) = &bystanders {
            let hurt = asked.iter().filter(|a| odd(a)).count();
            assert!(hurt * 50 <= asked.len(), "{name}: {hurt} of {} at other primaries", asked.len());
        }
        self.rows.0.push(row);
    }

    /// The users whose counters are not at this primary.
    fn elsewhere(&self, crowd: &Crowd, sick: u16) -> Vec<usize> {
        let here = ask(sick, &["--scan"]);
        let is_here = |name: &str| here.lines().any(|key| key.ends_with(&format!("/{name}")));
        let users: Vec<usize> = (0..crowd.users.len()).filter(|user| !is_here(&crowd.users[*user].name)).collect();
        assert!(!users.is_empty() && users.len() < crowd.users.len(), "counters are on several primaries");
        users
    }

    /// Ends the drills: the table is printed.
    pub fn report(self, title: &str) {
        println!("\n### {title}\n\n{}", self.rows);
    }
}

/// Not decided as always.
fn odd(asked: &Asked) -> bool {
    asked.answer.is_none_or(|answer| answer.degraded)
}

fn allowed(asked: &Asked) -> bool {
    asked.answer.is_some_and(|answer| answer.allowed)
}

/// The longest wait of 99 in a hundred, in milliseconds.
fn slow(asked: &[Asked]) -> u64 {
    let mut waits: Vec<u64> = asked.iter().map(|a| (a.answered - a.asked) / 1000).collect();
    waits.sort_unstable();
    waits.get(waits.len() * 99 / 100).copied().unwrap_or(0)
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap()
}

/// How long a fault lasts is part of what is told: nothing is waited for.
#[expect(clippy::disallowed_methods, reason = "see above")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
