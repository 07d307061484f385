//! A node of the cluster as the rest of the program sees it.

use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use plane::{Command, Mark, Outcome, PlaneState};
use tokio::sync::{mpsc, oneshot, watch};
use tonic::service::Routes;

use super::backup;
use super::client::Caller;
use super::config::RaftConfig;
use super::contact::Contact;
use super::disk::{Disk, FILE, RedbDisk};
use super::error::RaftError;
use super::group::Group;
use super::log::Log;
use super::machine::Machine;
use super::members::within;
use super::metrics::RaftMetrics;
use super::seal::Seal;
use super::server::serve;
use super::store::Store;
use super::types::{Proposal, Raft};
use crate::peers::Transport;
use crate::ports::plane::{ClusterStatus, Consensus, ConsensusError, MemberChange, Role};
use crate::ports::{BoxFuture, Fatal, Service, Shutdown};

/// Requests of this node that wait for its Raft thread.
const MAX_WAITING: usize = 64;

/// What the rest of the node asks of the Raft thread.
enum Ask {
    Propose(Box<Command>, oneshot::Sender<Result<Outcome, ConsensusError>>),
    Administer(MemberChange, oneshot::Sender<Result<(), ConsensusError>>),
    Leave(oneshot::Sender<()>),
}

/// A node of the cluster. As a service, it has a thread for Raft: nothing that decides checks waits for it.
pub struct RaftNode(Arc<Parts>);

struct Parts {
    config: RaftConfig,
    store: Store,
    machine: Machine,
    caller: Caller,
    metrics: RaftMetrics,
    role: watch::Sender<Role>,
    group: OnceLock<Arc<Group>>,
    /// Why Raft has stopped, while the node goes on.
    failure: OnceLock<String>,
    asks: mpsc::Sender<Ask>,
    asked: tokio::sync::Mutex<mpsc::Receiver<Ask>>,
    /// What else other nodes find at the cluster port.
    routes: std::sync::Mutex<Routes>,
}

impl RaftNode {
    /// Opens what the node has stored, and verifies it.
    ///
    /// # Errors
    /// Says what is damaged or misconfigured.
    pub fn open(
        config: RaftConfig,
        transport: Arc<dyn Transport>,
        metrics: RaftMetrics,
    ) -> Result<Arc<Self>, RaftError> {
        let place = config.data_dir.as_ref().map(|folder| folder.join(FILE).display().to_string());
        let disk = match &config.data_dir {
            Some(folder) => RedbDisk::open(folder),
            None => RedbDisk::in_memory(),
        };
        let place = place.unwrap_or_default();
        let disk = disk.map_err(|error| RaftError::reading(&place, error))?;
        Self::open_on(Arc::new(disk), &place, config, transport, metrics)
    }

    /// Opens what the node has stored on `disk`, which errors call `place`.
    ///
    /// # Errors
    /// See [`Self::open`].
    pub fn open_on(
        disk: Arc<dyn Disk>,
        place: &str,
        config: RaftConfig,
        transport: Arc<dyn Transport>,
        metrics: RaftMetrics,
    ) -> Result<Arc<Self>, RaftError> {
        config.raft()?;
        let seal = Seal::new(config.encryption.clone());
        let (store, id) = Store::open(disk, seal, &config.cluster, config.fresh_id, place)?;
        let machine = Machine::open(store.clone(), metrics.clone());
        let machine = machine.map_err(|error| RaftError::reading(place, error))?;
        let cluster = Arc::from(config.cluster.as_str());
        let caller = Caller { cluster, id, transport, contact: Arc::new(Contact::default()) };
        let (asks, asked) = mpsc::channel(MAX_WAITING);
        let (role, group, failure) = (watch::Sender::default(), OnceLock::new(), OnceLock::new());
        let asked = tokio::sync::Mutex::new(asked);
        metrics.set_ok(true);
        let routes = std::sync::Mutex::default();
        let parts = Parts { config, store, machine, caller, metrics, role, group, failure, asks, asked, routes };
        Ok(Arc::new(Self(Arc::new(parts))))
    }

    /// The id of this node.
    pub fn id(&self) -> u64 {
        self.0.caller.id
    }

    /// Also serves `routes` at the cluster port, from the next start of this service on.
    pub fn serve_also(&self, routes: Routes) {
        *self.0.routes.lock().unwrap_or_else(PoisonError::into_inner) = routes;
    }

    /// A backup of the configuration that this node has applied.
    ///
    /// # Errors
    /// Says why it cannot be written.
    pub fn backup(&self) -> Result<Vec<u8>, String> {
        let state = Arc::clone(&self.0.machine.plane().borrow());
        backup::make(&self.0.store, &self.0.config.cluster, &state)
    }

    /// Runs the node on the runtime of the caller, until `shutdown`. The runtime should have nothing else to do.
    ///
    /// # Errors
    /// Says why the node cannot go on.
    pub async fn drive(&self, shutdown: Shutdown) -> Result<(), Fatal> {
        self.0.drive(shutdown).await
    }
}

impl Parts {
    async fn drive(&self, mut shutdown: Shutdown) -> Result<(), Fatal> {
        let failed = |what: &str, error: &dyn std::fmt::Display| Fatal::Configuration(format!("{what}: {error}"));
        let listen = self.config.listen;
        let incoming = self.caller.transport.listen(listen).await;
        let incoming = incoming.map_err(|error| failed(&format!("listen.cluster {listen}"), &error))?;
        let config = Arc::new(self.config.raft().map_err(|error| failed("cluster", &error))?);
        let log = Log(self.store.clone());
        let raft = Raft::new(self.caller.id, config, self.caller.clone(), log, self.machine.clone()).await;
        let raft = raft.map_err(|error| failed("the Raft store", &error))?;
        let group = Arc::new(Group {
            config: self.config.clone(),
            caller: self.caller.clone(),
            raft: raft.clone(),
            machine: self.machine.clone(),
            metrics: self.metrics.clone(),
            role: self.role.clone(),
            reports: std::sync::Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            leaving: tokio::sync::Mutex::default(),
            stopping: watch::Sender::default(),
        });
        let _ = self.group.set(Arc::clone(&group));
        let routes = self.routes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let ended = tokio::select! {
            () = shutdown.requested() => Ok(()),
            error = group.watch() => self.go_on_without(&group, error, shutdown.clone()).await,
            served = serve(Arc::clone(&group), incoming, routes) => match served {
                Ok(()) => Err(Fatal::Ended("raft")),
                Err(error) => Err(failed("the cluster port", &error)),
            },
            () = group.announce() => Ok(()),
            () = group.keep_house() => Ok(()),
            () = self.answer(&group) => Ok(()),
        };
        group.stopping.send_replace(true);
        // Raft's tasks end, so that nothing writes to the store any more.
        let _ = raft.shutdown().await;
        ended
    }

    /// Raft has failed, usually because of the disk. A node that has a state keeps it and goes on without Raft, which
    /// only a restart brings back. The caller stops serving the other nodes.
    async fn go_on_without(&self, group: &Arc<Group>, error: String, mut shutdown: Shutdown) -> Result<(), Fatal> {
        let reason = format!("Raft has stopped: {error}");
        if self.machine.plane().borrow().mark() == Mark::default() {
            return Err(Fatal::Configuration(reason));
        }
        tracing::error!(%reason, "this node keeps its last rules, and follows the cluster only after a restart");
        group.stopping.send_replace(true);
        self.metrics.set_ok(false);
        let _ = self.failure.set(reason);
        self.role.send_if_modified(|role| std::mem::replace(role, Role::Follower) != Role::Follower);
        tokio::select! {
            () = shutdown.requested() => {}
            () = self.answer(group) => {}
        }
        Ok(())
    }

    async fn answer(&self, group: &Arc<Group>) {
        let mut asked = self.asked.lock().await;
        let mut running = tokio::task::JoinSet::new();
        loop {
            tokio::select! {
                Some(ask) = asked.recv() => {
                    let group = Arc::clone(group);
                    running.spawn(async move { serve_ask(&group, ask).await });
                }
                Some(_) = running.join_next() => {}
            }
        }
    }

    async fn ask<T>(
        &self,
        deadline: Duration,
        ask: impl FnOnce(oneshot::Sender<Result<T, ConsensusError>>) -> Ask,
    ) -> Result<T, ConsensusError> {
        let (sender, receiver) = oneshot::channel();
        within(deadline, async {
            self.asks.send(ask(sender)).await.map_err(|_| ConsensusError::Stopping)?;
            receiver.await.unwrap_or(Err(ConsensusError::Stopping))
        })
        .await
    }
}

async fn serve_ask(group: &Group, ask: Ask) {
    // Who asked may have gone.
    match ask {
        Ask::Propose(command, reply) => {
            let proposed = group.propose(Proposal::Command(command)).await;
            let _ = reply.send(proposed.and_then(|outcome| outcome.ok_or(ConsensusError::Unknown)));
        }
        Ask::Administer(change, reply) => {
            let _ = reply.send(group.administer(change).await);
        }
        Ask::Leave(reply) => {
            group.leave().await;
            let _ = reply.send(());
        }
    }
}

impl Consensus for RaftNode {
    fn state(&self) -> watch::Receiver<Arc<PlaneState>> {
        self.0.machine.plane()
    }

    fn role(&self) -> watch::Receiver<Role> {
        self.0.role.subscribe()
    }

    fn propose(&self, command: Command) -> BoxFuture<'_, Result<Outcome, ConsensusError>> {
        let deadline = self.0.config.timings.write;
        Box::pin(self.0.ask(deadline, |reply| Ask::Propose(Box::new(command), reply)))
    }

    fn status(&self) -> ClusterStatus {
        self.0.group.get().map_or_else(
            || ClusterStatus {
                name: self.0.config.cluster.clone(),
                node: self.0.config.node.clone(),
                ..Default::default()
            },
            |group| group.status(),
        )
    }

    fn administer(&self, change: MemberChange) -> BoxFuture<'_, Result<(), ConsensusError>> {
        let timings = &self.0.config.timings;
        let deadline = timings.write.saturating_mul(4).saturating_add(timings.catch_up);
        Box::pin(self.0.ask(deadline, |reply| Ask::Administer(change, reply)))
    }

    fn backup(&self) -> Result<Vec<u8>, String> {
        Self::backup(self)
    }

    fn last_contact(&self) -> Option<Duration> {
        self.0.caller.contact.age()
    }

    fn failure(&self) -> Option<String> {
        self.0.failure.get().cloned()
    }
}

impl Service for RaftNode {
    fn name(&self) -> &'static str {
        "raft"
    }

    fn run(&self, shutdown: Shutdown) -> BoxFuture<'_, Result<(), Fatal>> {
        let parts = Arc::clone(&self.0);
        Box::pin(async move {
            let (ended, wait) = oneshot::channel();
            let thread = std::thread::Builder::new().name("raft".to_owned()).spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let result = match runtime {
                    Ok(runtime) => runtime.block_on(parts.drive(shutdown)),
                    Err(error) => Err(Fatal::Configuration(format!("the runtime of Raft: {error}"))),
                };
                // This thread lets go of the store before it ends the service: the store closes with the node.
                drop(parts);
                let _ = ended.send(result);
            });
            thread.map_err(|error| Fatal::Configuration(format!("the thread of Raft: {error}")))?;
            wait.await.unwrap_or(Err(Fatal::Panicked("raft")))
        })
    }

    fn leave(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            let (sender, receiver) = oneshot::channel();
            if self.0.asks.send(Ask::Leave(sender)).await.is_ok() {
                let _ = receiver.await;
            }
        })
    }
}
