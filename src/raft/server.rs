//! Answers other nodes on the cluster port.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::unfold;
use openraft::error::{InstallSnapshotError, RaftError};
use openraft::raft::{AppendEntriesResponse, InstallSnapshotRequest};
use proto::tidegate::cluster::cluster_server::{Cluster, ClusterServer};
use proto::tidegate::cluster::{Answer, Envelope, Rejection};
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Request as Incall, Response, Status};

use super::group::Group;
use super::messages::{ANYONE, MAX_MESSAGE_BYTES, Reply, Request, VERSION};
use super::types::Vote;
use crate::peers::{Connection, Incoming};
use crate::ports::plane::MemberChange;
use crate::tls::peers::Peer;

/// The largest snapshot that a node accepts.
const MAX_SNAPSHOT_BYTES: u64 = 1 << 30;
/// Calls at once on one connection.
const MAX_CALLS: u32 = 64;
/// A connection that does not answer a ping within the timeout ends.
const PING_INTERVAL: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(10);
/// How much of a request may be on its way.
const WINDOW_BYTES: u32 = 4 << 20;

/// Serves the nodes that connect, without end. `routes` are what else they find at the port.
///
/// # Errors
/// Returns an error if the socket fails.
pub async fn serve(
    group: Arc<Group>,
    incoming: Box<dyn Incoming>,
    routes: Routes,
) -> Result<(), tonic::transport::Error> {
    let connections = unfold(incoming, async |mut incoming| {
        let accepted: io::Result<Connection> = incoming.accept().await;
        Some((accepted, incoming))
    });
    let service = ClusterServer::new(Answers(group));
    let service = service.max_decoding_message_size(MAX_MESSAGE_BYTES).max_encoding_message_size(MAX_MESSAGE_BYTES);
    let server = Server::builder().max_concurrent_streams(MAX_CALLS).tcp_nodelay(true);
    // A peer that does not answer pings is disconnected.
    let server = server.http2_keepalive_interval(Some(PING_INTERVAL)).http2_keepalive_timeout(Some(PING_TIMEOUT));
    // A large append to a far region must not wait for the window all the time.
    let mut server = server.initial_stream_window_size(WINDOW_BYTES).initial_connection_window_size(2 * WINDOW_BYTES);
    server.add_routes(routes.add_service(service)).serve_with_incoming(connections).await
}

struct Answers(Arc<Group>);

#[tonic::async_trait]
impl Cluster for Answers {
    async fn call(&self, call: Incall<Envelope>) -> Result<Response<Answer>, Status> {
        // The caller waits before it asks again. Connections outlive the listener.
        if *self.0.stopping.borrow() {
            return Err(Status::unavailable("Raft has stopped"));
        }
        let peer = call.extensions().get::<Option<Arc<Peer>>>().cloned().flatten();
        let envelope = call.into_inner();
        let answer = match self.check(&envelope, peer.as_deref()) {
            Ok(request) => {
                let reply = self.reply(envelope.sender, request, envelope.data).await;
                let reply = serde_json::to_vec(&reply).map_err(|error| Status::internal(error.to_string()))?;
                Answer { reply, rejection: Rejection::None.into() }
            }
            Err(rejection) => {
                self.0.metrics.rejected(rejection);
                Answer { reply: Vec::new(), rejection: rejection.into() }
            }
        };
        Ok(Response::new(answer))
    }
}

impl Answers {
    fn check(&self, envelope: &Envelope, peer: Option<&Peer>) -> Result<Request, Rejection> {
        if *envelope.cluster != *self.0.caller.cluster {
            return Err(Rejection::Cluster);
        }
        if envelope.version.abs_diff(VERSION) > 1 {
            return Err(Rejection::Version);
        }
        if self.0.machine.has_removed(envelope.sender) {
            return Err(Rejection::Removed);
        }
        let request = serde_json::from_slice(&envelope.request).map_err(|_| Rejection::Unreadable)?;
        let for_anyone =
            matches!(request, Request::Announce(_) | Request::Leave | Request::Administer(_) | Request::Identify);
        if envelope.target != self.0.caller.id && !(for_anyone && envelope.target == ANYONE) {
            return Err(Rejection::Target);
        }
        if self.is_from(envelope.sender, &request, peer) { Ok(request) } else { Err(Rejection::Certificate) }
    }

    /// False if the request claims to come from a member that the peer is not. This node may not know the sender: it
    /// may be a newer leader, or a node that asks to be admitted.
    fn is_from(&self, sender: u64, request: &Request, peer: Option<&Peer>) -> bool {
        let may_be = |name: &str| peer.is_none_or(|peer| peer.may_be(name));
        let metrics = self.0.raft_metrics();
        let member = metrics.membership_config.membership().get_node(&sender);
        let names_sender = |vote: &Vote| vote.leader_id().voted_for() == Some(sender);
        member.is_none_or(|member| may_be(&member.name))
            && match request {
                Request::Append { request, .. } => names_sender(&request.vote),
                Request::Vote(request) => names_sender(&request.vote),
                Request::Snapshot { vote, .. } => names_sender(vote),
                Request::Announce(announcement) => may_be(&announcement.node.name),
                Request::Leave | Request::Administer(_) => member.is_some(),
                Request::Identify => true,
            }
    }

    async fn reply(&self, sender: u64, request: Request, data: Vec<u8>) -> Reply {
        let group = &self.0;
        let failed = |error: &dyn std::fmt::Display| Reply::Failed(error.to_string());
        match request {
            Request::Append { request, quorum_age_ms } => match group.raft.append_entries(request).await {
                Ok(response) => {
                    if let Some(age) = quorum_age_ms
                        && !matches!(response, AppendEntriesResponse::HigherVote(_))
                    {
                        group.caller.contact.heard(Duration::from_millis(age));
                    }
                    Reply::Append(response)
                }
                Err(error) => failed(&error),
            },
            Request::Vote(request) => match group.raft.vote(request).await {
                Ok(response) => Reply::Vote(response),
                Err(error) => failed(&error),
            },
            Request::Snapshot { vote, meta, offset, done } => {
                if offset.saturating_add(data.len() as u64) > MAX_SNAPSHOT_BYTES {
                    return Reply::Failed("the snapshot is too large".to_owned());
                }
                let request = InstallSnapshotRequest { vote, meta: *meta, offset, data, done };
                match group.raft.install_snapshot(request).await {
                    Ok(response) => Reply::Snapshot(response.vote),
                    Err(RaftError::APIError(InstallSnapshotError::SnapshotMismatch(mismatch))) => {
                        Reply::SnapshotMismatch(mismatch)
                    }
                    Err(error) => failed(&error),
                }
            }
            Request::Announce(announcement) => Reply::Announced(group.announced(sender, announcement).await),
            Request::Leave => Reply::Left(group.left(sender).await),
            Request::Administer(MemberChange::Restore { .. }) => {
                Reply::Administered(group.lead_change(MemberChange::Restore { backup: data }).await)
            }
            Request::Administer(change) => Reply::Administered(group.lead_change(change).await),
            Request::Identify => Reply::Identified(group.identify()),
        }
    }
}
