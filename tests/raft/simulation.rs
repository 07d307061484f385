//! The real Raft part over a simulated network and simulated disks, with crashes, partitions and slow disks.
//!
//! `RAFT_SEEDS=200 cargo test --test raft -- simulat` runs more seeds; `RAFT_SEED=17` runs one.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use limiter::Revision;
use plane::{Change, Command, CommitId, Mark, PlaneState, Transaction};
use tidegate::peers::{Connection, Incoming, Transport};
use tidegate::ports::plane::{Consensus, MemberChange, Role};
use tidegate::ports::{BoxFuture, Shutdown};
use tidegate::raft::{RaftConfig, RaftNode, Timings};
use tokio::sync::watch;
use turmoil::net::{TcpListener, TcpStream};

use crate::cluster::metrics;
use crate::simulated_disk::Platter;

/// A small generator of random numbers (splitmix64).
pub struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }
}

struct SimulatedNetwork;

impl Transport for SimulatedNetwork {
    fn listen(&self, address: SocketAddr) -> BoxFuture<'_, io::Result<Box<dyn Incoming>>> {
        Box::pin(async move { Ok(Box::new(Listener(TcpListener::bind(address).await?)) as Box<dyn Incoming>) })
    }

    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Connection>> {
        Box::pin(async move { Ok(Connection::new(TcpStream::connect(address).await?)) })
    }
}

struct Listener(TcpListener);

impl Incoming for Listener {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Connection>> {
        Box::pin(async move { Ok(Connection::new(self.0.accept().await?.0)) })
    }
}

/// Voters first, then a learner with a disk, then one without.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const VOTERS: usize = 3;
const DISKLESS: usize = 4;
const CHAOS_MS: u64 = 20_000;
const PEACE_MS: u64 = 40_000;

/// What the whole run has seen.
#[derive(Default)]
struct History {
    /// The states by revision, as the first node to show it had it.
    states: BTreeMap<u64, PlaneState>,
    acknowledged: Vec<Mark>,
    /// What each node showed last, in all its processes.
    shown: [u64; NAMES.len()],
    broken: Option<String>,
}

impl History {
    fn break_promise(&mut self, text: String) {
        self.broken.get_or_insert(text);
    }

    fn see(&mut self, node: usize, state: &PlaneState) {
        let revision = state.mark().revision.0;
        let name = NAMES[node];
        if revision < self.shown[node] {
            self.break_promise(format!("{name} goes back from revision {} to {revision}", self.shown[node]));
        }
        self.shown[node] = revision;
        let first = self.states.entry(revision).or_insert_with(|| state.clone());
        if first != state {
            self.break_promise(format!("{name} has another state at revision {revision}"));
        }
    }
}

struct World {
    seed: u64,
    forgets_committed: bool,
    platters: [Arc<Platter>; NAMES.len()],
    nodes: [Mutex<Option<Arc<RaftNode>>>; NAMES.len()],
    history: Mutex<History>,
    ids: AtomicU64,
}

fn config(world: &World, node: usize) -> RaftConfig {
    // The timeouts of elections do not depend on random numbers of the library: its range is one millisecond.
    let election = 500 + 130 * ((node as u64 + world.seed) % NAMES.len() as u64);
    RaftConfig {
        cluster: "simulated".to_owned(),
        node: NAMES[node].to_owned(),
        region: "here".to_owned(),
        listen: "0.0.0.0:8082".parse().unwrap(),
        advertise: format!("{}:8082", NAMES[node]),
        data_dir: (node != DISKLESS).then(Default::default),
        encryption: None,
        join: if node < VOTERS { Vec::new() } else { vec!["a:8082".to_owned(), "b:8082".to_owned()] },
        fresh_id: 1 + world.ids.fetch_add(1, Ordering::Relaxed),
        timings: Timings {
            heartbeat: Duration::from_millis(100),
            election: (Duration::from_millis(election), Duration::from_millis(election + 1)),
            report: Duration::from_millis(500),
            write: Duration::from_secs(2),
            snapshot_part: Duration::from_secs(1),
            snapshot_after: 15,
            keep_entries: 4,
            ..Timings::default()
        },
    }
}

/// One process of a node.
async fn process(world: Arc<World>, node: usize) -> turmoil::Result {
    if node == DISKLESS {
        // A new process of a node without a disk begins with nothing.
        world.history.lock().unwrap().shown[node] = 0;
    }
    let disk = Arc::new(if node == DISKLESS {
        Arc::new(Platter::default()).open(false)
    } else {
        world.platters[node].open(world.forgets_committed)
    });
    let raft = RaftNode::open_on(disk, NAMES[node], config(&world, node), Arc::new(SimulatedNetwork), metrics())?;
    *world.nodes[node].lock().unwrap() = Some(Arc::clone(&raft));
    let (_stop, stopped) = watch::channel(false);
    tokio::select! {
        ended = raft.drive(Shutdown(stopped)) => ended?,
        () = follow(&world, node, &raft) => {}
        () = propose(&world, &raft) => {}
    }
    Err(format!("{} ended", NAMES[node]).into())
}

/// Looks at every state that the node shows, from when it takes part.
async fn follow(world: &World, node: usize, raft: &RaftNode) {
    let (mut role, mut states) = (raft.role(), raft.state());
    let _ = role.wait_for(|role| *role != Role::Joining).await;
    loop {
        let state = states.borrow_and_update().clone();
        // A process that has just begun shows nothing until it has applied again what it had.
        if state.mark() != Mark::default() {
            world.history.lock().unwrap().see(node, &state);
        }
        if states.changed().await.is_err() {
            return;
        }
    }
}

/// Proposes one command after the other, while this node leads.
async fn propose(world: &World, raft: &RaftNode) {
    let (mut role, states) = (raft.role(), raft.state());
    loop {
        let _ = role.wait_for(|role| matches!(role, Role::Leader { .. })).await;
        let after = states.borrow().mark();
        let revision = Revision(after.revision.0 + 1);
        let id = CommitId(world.ids.fetch_add(1, Ordering::Relaxed).into());
        let mark = Mark { revision, id };
        let changes = vec![Change::PutSetting { name: format!("r{revision}"), value: id.to_string().into() }];
        let transactions = vec![Transaction::new(mark, changes)];
        let proposed = raft.propose(Command::Apply { after, transactions, refused: Vec::new() }).await;
        if proposed.is_ok_and(|outcome| outcome.applied) {
            world.history.lock().unwrap().acknowledged.push(mark);
        }
        tokio::time::sleep(Duration::from_millis(40)).await;
    }
}

/// Runs a seed. Returns how many commands were acknowledged.
fn run(seed: u64, forgets_committed: bool) -> Result<usize, String> {
    let world = Arc::new(World {
        seed,
        forgets_committed,
        platters: Default::default(),
        nodes: Default::default(),
        history: Mutex::default(),
        ids: AtomicU64::new(0),
    });
    let mut sim = turmoil::Builder::new()
        .rng_seed(seed)
        .simulation_duration(Duration::from_secs(3600))
        .tick_duration(Duration::from_millis(2))
        .min_message_latency(Duration::from_millis(1))
        .max_message_latency(Duration::from_millis(30))
        .tcp_capacity(65_536)
        .build();
    for (node, name) in NAMES.into_iter().enumerate() {
        let world = Arc::clone(&world);
        sim.host(name, move || process(Arc::clone(&world), node));
    }
    let forming = Arc::clone(&world);
    sim.client("operator", async move {
        let voters = NAMES[..VOTERS].iter().map(|name| ((*name).to_owned(), format!("{name}:8082"))).collect();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let first = forming.nodes[0].lock().unwrap().clone().ok_or("a did not start")?;
        first.administer(MemberChange::Init { voters }).await?;
        Ok(())
    });
    let step = |sim: &mut turmoil::Sim<'_>, until: Duration| -> Result<(), String> {
        while sim.elapsed() < until {
            sim.step().map_err(|error| error.to_string())?;
            if let Some(broken) = &world.history.lock().unwrap().broken {
                return Err(broken.clone());
            }
        }
        Ok(())
    };
    let mut random = Random(seed);
    step(&mut sim, Duration::from_secs(3))?;
    let chaos_ends = sim.elapsed() + Duration::from_millis(CHAOS_MS);
    let mut down = [false; NAMES.len()];
    while sim.elapsed() < chaos_ends {
        let pause = sim.elapsed() + Duration::from_millis(50 + random.below(1200));
        step(&mut sim, pause)?;
        let (node, other) = (random.below(5) as usize, random.below(5) as usize);
        match random.below(10) {
            0..=3 if !down[node] => {
                world.platters[node].crash(&mut random);
                sim.crash(NAMES[node]);
                down[node] = true;
            }
            0..=5 => restart(&mut sim, &mut down, node),
            6 if node != other => sim.partition(NAMES[node], NAMES[other]),
            // A node that hears all and is heard by none, or the reverse.
            7 if node != other => sim.partition_oneway(NAMES[node], NAMES[other]),
            8 => world.platters[node].slow_ms.store(random.below(4) * 60, Ordering::Relaxed),
            _ => heal(&sim),
        }
    }
    heal(&sim);
    world.platters.iter().for_each(|platter| platter.slow_ms.store(0, Ordering::Relaxed));
    (0..NAMES.len()).for_each(|node| restart(&mut sim, &mut down, node));
    let peace_ends = sim.elapsed() + Duration::from_millis(PEACE_MS);
    let acknowledged = world.history.lock().unwrap().acknowledged.len();
    loop {
        let next = sim.elapsed() + Duration::from_millis(200);
        step(&mut sim, next)?;
        let history = world.history.lock().unwrap();
        let least = history.shown.iter().min().copied().unwrap_or_default();
        // Every node has a command that was acknowledged after the chaos, and with it all of those before.
        if let Some(last) = history.acknowledged.get(acknowledged).filter(|last| last.revision.0 <= least) {
            let end = history.states.range(last.revision.0..).next().ok_or("no state")?.1;
            let lost =
                history.acknowledged.iter().filter(|mark| mark.revision <= end.mark().revision).find(|mark| {
                    end.settings().get(&format!("r{}", mark.revision)) != Some(&mark.id.to_string().into())
                });
            return match lost {
                Some(mark) => Err(format!("the acknowledged revision {} is lost", mark.revision)),
                None => Ok(acknowledged),
            };
        }
        if sim.elapsed() > peace_ends {
            let shown = history.shown;
            return Err(format!("the nodes do not catch up: they are at {shown:?}, {acknowledged} acknowledged"));
        }
    }
}

fn restart(sim: &mut turmoil::Sim<'_>, down: &mut [bool; NAMES.len()], node: usize) {
    if std::mem::take(&mut down[node]) {
        sim.bounce(NAMES[node]);
    }
}

fn heal(sim: &turmoil::Sim<'_>) {
    for (index, one) in NAMES.into_iter().enumerate() {
        for other in &NAMES[index + 1..] {
            sim.repair(one, *other);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}: expected a number")))
}

#[test]
fn simulated_crashes_partitions_and_slow_disks_lose_nothing() {
    let seeds = number("RAFT_SEED").map_or(0..number("RAFT_SEEDS").unwrap_or(4), |seed| seed..seed + 1);
    let mut acknowledged = 0;
    for seed in seeds.clone() {
        match run(seed, false) {
            Ok(count) => acknowledged += count,
            Err(error) => panic!("RAFT_SEED={seed}: {error}"),
        }
    }
    println!("{} seeds, {acknowledged} acknowledged commands", seeds.end - seeds.start);
    assert!(acknowledged > 0);
}

#[test]
fn the_simulation_finds_a_lost_save_committed() {
    let found = (0..20).find_map(|seed| run(seed, true).err());
    assert!(found.as_ref().is_some_and(|error| error.contains("goes back")), "{found:?}");
}
