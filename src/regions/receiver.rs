//! What other regions find at the cluster port.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, PoisonError};

use futures_util::stream::unfold;
use limiter::RegionNumber;
use limiter::escrow::{MAX_WANTS, Want};
use proto::tidegate::cluster::gossip_server::{Gossip, GossipServer};
use proto::tidegate::cluster::{Answered, Asked, Heard, Told};
use tokio::sync::{mpsc, oneshot};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use super::Partitioned;
use super::directory::Directory;
use super::giver::Questioned;
use super::importer::{Import, Imported};
use super::metrics::{RegionsMetrics, Rejected};
use super::sender::VERSION;
use super::wire::{self, MAX_REPORT_BYTES};
use crate::peers::{Connection, Transport};
use crate::ports::Fatal;
use crate::tls::peers::Peer;

/// Calls at once on one connection.
const MAX_CALLS: u32 = 64;

/// Takes the messages of other regions.
pub struct Receiver {
    /// The cluster of this node; empty without one.
    pub cluster: String,
    pub hashed_keys: bool,
    pub directory: Arc<Directory>,
    pub imports: mpsc::Sender<Import>,
    /// The regions that do not hear this node.
    pub partitioned: Partitioned,
    pub questions: mpsc::Sender<Questioned>,
    pub metrics: RegionsMetrics,
}

impl Receiver {
    /// What other regions find at the cluster port.
    pub fn into_routes(self) -> Routes {
        // The names of the node and the region are short.
        let max_bytes = MAX_REPORT_BYTES as usize + 4096;
        Routes::new(GossipServer::new(self).max_decoding_message_size(max_bytes))
    }

    fn check(&self, told: &Sender<'_>, peer: Option<&Peer>) -> Result<(), Rejected> {
        if told.version.abs_diff(VERSION) > 1 {
            return Err(Rejected::Version);
        }
        if told.cluster != self.cluster {
            return Err(Rejected::Cluster);
        }
        if !self.directory.has(told.region) {
            return Err(Rejected::Region);
        }
        if told.hashed_keys != self.hashed_keys {
            return Err(Rejected::Keys);
        }
        if peer.is_some_and(|peer| !peer.may_be(told.node)) {
            return Err(Rejected::Certificate);
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl Gossip for Receiver {
    async fn tell(&self, call: Request<Told>) -> Result<Response<Heard>, Status> {
        let peer = call.extensions().get::<Option<Arc<Peer>>>().cloned().flatten();
        let told = call.into_inner();
        let rejected = |reason: Rejected| {
            self.metrics.rejected_message(reason);
            Status::failed_precondition(reason.to_string())
        };
        let Told { version, cluster, region, node, hashed_keys, .. } = &told;
        let sender = Sender { version: *version, cluster, region, node, hashed_keys: *hashed_keys };
        self.check(&sender, peer.as_deref()).map_err(rejected)?;
        self.metrics.received(told.reports.len());
        // The cluster port is served by Raft's thread, which must not wait for this.
        let Told { region, reports, inflated_bytes, .. } = told;
        let decoded = tokio::task::spawn_blocking(move || wire::decode(&reports, inflated_bytes)).await;
        let decoded = decoded.map_err(|_| Status::internal("the reports were not read"))?;
        let reports = decoded.map_err(|_| rejected(Rejected::Unreadable))?;
        let (done, imported) = oneshot::channel();
        let region = RegionNumber::of(&region);
        let import = Import { region, reports, done };
        // A region that cannot keep up is told again later.
        self.imports.try_send(import).map_err(|_| rejected(Rejected::Busy))?;
        let imported = imported.await.map_err(|_| Status::unavailable("the node leaves"))?;
        let Imported { memory, failed, nothing } = imported;
        if nothing {
            return Err(Status::unavailable("the counters of the region do not answer"));
        }
        let partitioned = self.partitioned.lock().unwrap_or_else(PoisonError::into_inner);
        let partitioned = partitioned.iter().any(|third| *third != region);
        Ok(Response::new(Heard { memory, failed, partitioned }))
    }

    async fn ask(&self, call: Request<Asked>) -> Result<Response<Answered>, Status> {
        let peer = call.extensions().get::<Option<Arc<Peer>>>().cloned().flatten();
        let asked = call.into_inner();
        let rejected = |reason: Rejected| {
            self.metrics.rejected_message(reason);
            Status::failed_precondition(reason.to_string())
        };
        let Asked { version, cluster, region, node, hashed_keys, .. } = &asked;
        let sender = Sender { version: *version, cluster, region, node, hashed_keys: *hashed_keys };
        self.check(&sender, peer.as_deref()).map_err(rejected)?;
        let number = RegionNumber::of(&asked.region);
        if asked.wants.len() > MAX_WANTS {
            return Err(rejected(Rejected::Unreadable));
        }
        let wants: Option<Vec<Want>> = asked.wants.into_iter().map(wire::want_from_message).collect();
        let wants = wants.ok_or_else(|| rejected(Rejected::Unreadable))?;
        let (done, answers) = oneshot::channel();
        // The cluster port is served by Raft's thread, which must not run batches.
        let question = Questioned { region: number, wants, done };
        self.questions.try_send(question).map_err(|_| rejected(Rejected::Busy))?;
        let answers = answers.await.map_err(|_| Status::unavailable("the node leaves"))?;
        Ok(Response::new(Answered { answers: answers.into_iter().map(wire::answer_to_message).collect() }))
    }
}

/// What a message says of who sent it.
struct Sender<'a> {
    version: u32,
    cluster: &'a str,
    region: &'a str,
    node: &'a str,
    hashed_keys: bool,
}

/// Listens for other regions, without end. A node of a cluster serves them at its cluster port instead.
pub async fn serve(transport: &dyn Transport, listen: SocketAddr, routes: Routes) -> Result<(), Fatal> {
    let failed = |error: &dyn std::fmt::Display| Fatal::Configuration(format!("listen.cluster {listen}: {error}"));
    let incoming = transport.listen(listen).await.map_err(|error| failed(&error))?;
    let connections = unfold(incoming, async |mut incoming| {
        let accepted: io::Result<Connection> = incoming.accept().await;
        Some((accepted, incoming))
    });
    let mut server = Server::builder().max_concurrent_streams(MAX_CALLS).tcp_nodelay(true);
    let served = server.add_routes(routes).serve_with_incoming(connections).await;
    Err(served.map_or_else(|error| failed(&error), |()| Fatal::Ended("regions")))
}
