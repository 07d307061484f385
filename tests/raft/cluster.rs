//! Real nodes of a cluster in this process, on loopback.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use limiter::Revision;
use plane::{Change, Command, CommitId, Mark, Outcome, Transaction};
use proto::tidegate::cluster::Rejection;
use tidegate::peers::Network;
use tidegate::ports::plane::{Consensus, ConsensusError, Member, MemberChange, MemberRole, Role};
use tidegate::ports::{Fatal, Service, Shutdown};
use tidegate::raft::disk::Disk;
use tidegate::raft::metrics::RaftMetrics;
use tidegate::raft::{EncryptionKeys, RaftConfig, RaftError, RaftNode, Timings};
use tidegate::telemetry::registry::MetricsRegistry;
use tidegate::tls::peers::PeerSecurity;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// How long a test waits for anything.
pub const PATIENCE: Duration = Duration::from_secs(30);

pub fn timings() -> Timings {
    Timings {
        heartbeat: Duration::from_millis(60),
        election: (Duration::from_millis(400), Duration::from_millis(800)),
        report: Duration::from_millis(100),
        write: Duration::from_secs(2),
        catch_up: Duration::from_secs(10),
        ..Timings::default()
    }
}

pub fn free_address() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub fn metrics() -> RaftMetrics {
    RaftMetrics::new(&MetricsRegistry::new("test", "test").unwrap()).unwrap()
}

/// What a node is started with. It survives the node.
#[derive(Clone)]
pub struct Seat {
    pub config: RaftConfig,
    pub disk: Option<Arc<dyn Disk>>,
    pub security: PeerSecurity,
}

impl Seat {
    #[expect(clippy::disallowed_methods, reason = "a node draws its id")]
    pub fn new(name: &str, folder: Option<PathBuf>) -> Self {
        let listen = free_address();
        let config = RaftConfig {
            cluster: "test".to_owned(),
            node: name.to_owned(),
            region: "here".to_owned(),
            listen,
            advertise: listen.to_string(),
            data_dir: folder,
            encryption: None,
            join: Vec::new(),
            fresh_id: getrandom::u64().unwrap(),
            timings: timings(),
        };
        Self { config, disk: None, security: PeerSecurity::Plain }
    }

    pub fn address(&self) -> String {
        self.config.advertise.clone()
    }

    pub fn joining(mut self, others: &[&Self]) -> Self {
        self.config.join = others.iter().map(|seat| seat.address()).collect();
        self
    }

    pub fn keys(mut self, text: &str) -> Self {
        self.config.encryption = Some(EncryptionKeys::parse(text).unwrap());
        self
    }

    pub fn open(&self, metrics: RaftMetrics) -> Result<Arc<RaftNode>, RaftError> {
        let network = Arc::new(Network(self.security.clone()));
        match &self.disk {
            Some(disk) => RaftNode::open_on(Arc::clone(disk), "disk", self.config.clone(), network, metrics),
            None => RaftNode::open(self.config.clone(), network, metrics),
        }
    }

    /// Opens the node, after the one that ran before has let go of its file.
    pub async fn opened(&self, metrics: &RaftMetrics) -> Arc<RaftNode> {
        let opened = || match self.open(metrics.clone()) {
            Ok(node) => Some(node),
            Err(RaftError::Io { .. }) => None,
            Err(error) => panic!("{error}"),
        };
        wait_for("the store opens", opened).await
    }

    /// Starts the node, after the one that ran before has let go of its file.
    #[expect(clippy::disallowed_methods, reason = "whoever stops the node waits for the task")]
    pub async fn start(&self) -> Running {
        let metrics = metrics();
        let node = self.opened(&metrics).await;
        let (stop, stopped) = watch::channel(false);
        let running = Arc::clone(&node);
        let task = tokio::spawn(async move { running.run(Shutdown(stopped)).await });
        until("the node listens", || TcpStream::connect(self.config.listen).is_ok()).await;
        Running { seat: self.clone(), node, stop, task, metrics }
    }
}

/// A node that runs.
pub struct Running {
    pub seat: Seat,
    pub node: Arc<RaftNode>,
    pub metrics: RaftMetrics,
    stop: watch::Sender<bool>,
    pub task: JoinHandle<Result<(), Fatal>>,
}

impl Running {
    pub fn name(&self) -> &str {
        &self.seat.config.node
    }

    pub fn revision(&self) -> u64 {
        self.node.state().borrow().mark().revision.0
    }

    pub fn role(&self) -> Role {
        *self.node.role().borrow()
    }

    pub fn leads(&self) -> bool {
        matches!(self.role(), Role::Leader { .. })
    }

    pub async fn stop(self) -> Seat {
        self.stop.send_replace(true);
        self.task.await.unwrap().unwrap();
        self.seat
    }

    pub async fn init(&self, voters: &[&Self]) {
        let voters = voters.iter().map(|node| (node.name().to_owned(), node.seat.address())).collect();
        self.node.administer(MemberChange::Init { voters }).await.unwrap();
    }

    pub async fn administer(&self, change: MemberChange) -> Result<(), ConsensusError> {
        self.node.administer(change).await
    }

    pub async fn promote(&self, node: &str) -> Result<(), ConsensusError> {
        self.administer(MemberChange::Promote { node: node.to_owned() }).await
    }

    pub async fn demote(&self, node: &str) -> Result<(), ConsensusError> {
        self.administer(MemberChange::Demote { node: node.to_owned() }).await
    }

    pub async fn remove(&self, node: &str) -> Result<(), ConsensusError> {
        self.administer(MemberChange::Remove { node: node.to_owned() }).await
    }

    pub fn members(&self) -> Vec<Member> {
        self.node.status().members
    }

    pub fn member(&self, name: &str) -> Option<Member> {
        self.members().into_iter().find(|member| member.name == name)
    }

    pub fn voters(&self) -> Vec<String> {
        let voters = self.members().into_iter().filter(|member| member.role != MemberRole::Learner);
        voters.map(|member| member.name).collect()
    }

    pub fn rejected(&self, reason: Rejection) -> u64 {
        self.metrics.rejections(reason)
    }
}

/// Waits until `condition` gives something.
pub async fn wait_for<T>(what: &str, mut condition: impl FnMut() -> Option<T>) -> T {
    let wait = async {
        loop {
            if let Some(found) = condition() {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"))
}

pub async fn until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_for(what, || condition().then_some(())).await;
}

/// The node that leads.
pub async fn leader<'a>(nodes: &[&'a Running]) -> &'a Running {
    wait_for("a leader", || nodes.iter().find(|node| node.leads()).copied()).await
}

pub fn mark(revision: u64) -> Mark {
    match revision {
        0 => Mark::default(),
        revision => Mark { revision: Revision(revision), id: CommitId(revision.into()) },
    }
}

/// A command that sets a setting and takes the state from revision `before` to the next.
pub fn command(before: u64) -> Command {
    let change = Change::PutSetting { name: format!("setting {}", before % 7), value: (before + 1).into() };
    let transaction = Transaction::new(mark(before + 1), vec![change]);
    Command::Apply { after: mark(before), transactions: vec![transaction], refused: Vec::new() }
}

/// Writes through whichever of `nodes` leads, and returns the new revision.
pub async fn write(nodes: &[&Running]) -> u64 {
    let leader = leader(nodes).await;
    let before = leader.revision();
    let Outcome { applied, mark } = leader.node.propose(command(before)).await.unwrap();
    assert!(applied);
    assert_eq!(mark.revision.0, before + 1);
    mark.revision.0
}

pub async fn all_reach(nodes: &[&Running], revision: u64) {
    for node in nodes {
        until(&format!("{} reaches revision {revision}", node.name()), || node.revision() >= revision).await;
    }
}

/// Three voters with disks in `folder`, formed into a cluster.
pub async fn three(folder: &std::path::Path) -> [Running; 3] {
    let mut nodes = Vec::new();
    for name in ["a", "b", "c"] {
        nodes.push(Seat::new(name, Some(folder.join(name))).start().await);
    }
    let nodes: [Running; 3] = nodes.try_into().ok().unwrap();
    let [a, b, c] = &nodes;
    a.init(&[a, b, c]).await;
    leader(&[a, b, c]).await;
    nodes
}

pub async fn stop(nodes: impl IntoIterator<Item = Running>) {
    for node in nodes {
        node.stop().await;
    }
}

/// True if a change is invalid for a reason with `part`.
pub fn is_invalid(error: &ConsensusError, part: &str) -> bool {
    matches!(error, ConsensusError::Invalid(text) if text.contains(part))
}
